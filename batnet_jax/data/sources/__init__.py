"""TFDS builders of the data sets.

market, cuhk03 (with cuhk03_mat), msmt17, pedestrians: the public data sets and the drawn one.
folder, table: a user's own images, in folders or in a table.
find_parts, split_folders, people_folders: find the folders of splits and of people.
layout, file_labels, spelling: read identities and cameras from the names of folders and files.
table_rows: reads the rows of a table.
"""
