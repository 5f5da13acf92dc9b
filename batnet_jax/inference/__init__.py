"""A trained model: restore it, embed images, search a gallery.

restore: the network and the variables of a checkpoint.
saved_settings: the settings of a checkpoint or of a file of weights.
model: `load`, and `Model`, which turns images into features.
hits: ranked lists of a search in Python.
feature_file: features and image paths as an .npz.
search: a gallery ranked for each query.
"""
