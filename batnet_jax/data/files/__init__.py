"""Reads files of unknown origin safely.

tree: the files of a folder or an archive. safe_open: a whole file, or a part of one.
find_dataset: a data set in or below a folder.
image_headers, pixels, heic: images, checked before they are decoded.
read_table, columns: tables, and the usual names of their columns.
matlab_v5: lists in MATLAB files.
"""
