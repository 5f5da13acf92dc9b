"""The workdir of a run: its settings and labels, checkpoints, figures and environment.

A workdir is a folder, or a folder in a bucket of Google Cloud Storage (`gcs.py`). `same_run.py`
decides whether a config may resume the run of a workdir.
"""
