"""Features in Parquet files, which pandas, Polars, DuckDB and Spark open.

file: opens a file, ours or another program's.
write: writes one.
facts: the metadata of our files.
seal: a checksum of the footer.
rows: features of other programs, unpacked once.
columns: numbers and texts beside the features.
texts: paths in little memory.
"""
