"""A trained model: restore it, embed images, search a gallery.

restore: the network and the variables of a checkpoint.
model: `load`, and `Model`, which turns images into features.
feature_file: features and image paths as an .npz.
search: a gallery ranked for each query.
"""
