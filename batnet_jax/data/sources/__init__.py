"""TFDS builders of the data sets: one module for each, named as the data set."""
