"""Reads files of unknown origin safely: folders, archives, image headers, MATLAB lists."""
