"""The report of an evaluation: pictures and one HTML page.

ranked_list, attention_maps: PNGs.
page: HTML elements and the page itself, with page.css and page.js.
layers: the picture of drawn images' layers, and the table of the shares on them.
charts, thumbnails: inline SVG and inline images.
sections, cards, attention_section, training_section, settings: the sections of the page.
"""
