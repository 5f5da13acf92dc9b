"""The report of an evaluation: pictures and one HTML page.

ranked_list, attention_maps: pictures as PNG files.
page: HTML elements and the page itself, with base.css, page.css, page.js and zoom.js.
layers: the picture of drawn images' layers, and the table of the shares on them.
charts, thumbnails: inline SVG and inline images.
summary, cards, hardest, sections (curves), feature_map, sheet, attention_section, training_section,
settings: the sections of the page.
comparison: the sections of the page that compares runs.
"""
