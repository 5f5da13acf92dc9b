"""A trained model: restore it, embed images, search a gallery.

restore: the network and the variables of a checkpoint.
saved_settings: the settings of a checkpoint or of a file of weights.
loading: `load`, which returns a `Model`.
model: `Model`, which turns images into features.
box_steps: steps of a few sizes for boxes in a stream of frames.
hits: ranked lists of a search in Python.
feature_file: features and image paths as an .npz, a .parquet, or a folder of shards.
shards: the plan, the files and the manifest of a gallery in shards.
shard_gallery: a gallery in shards, opened as one.
claims: locks by which processes share the shards.
search: a gallery ranked for each query.
"""
