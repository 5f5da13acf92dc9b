"""The workdir of a run: its settings and labels, checkpoints, figures and environment.

run_folder: `config.json`, labels, the lock, and the checks before a run starts.
same_run: whether a config may resume the run of a workdir.
checkpoints, checkpoint_checks, checksums: checkpoints and their damage.
best_checkpoint: the mAP of each step on held-out identities.
metrics_log, tensorboard: the figures of training. results: the figures of evaluations.
environment, people: the machine of each start, and the names of people.
gcs: a workdir in a bucket of Google Cloud Storage.
"""
