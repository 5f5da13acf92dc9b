"""A training run: start or resume it, take its steps, save and evaluate on the way.

loop: the loop itself.
fitted: settings that follow from the size of the training set.
start: the state to start from, restored or fresh. run_length: the steps and the batches.
window, progress, profiling: what a run records and shows.
non_finite: the report on NaN or infinity.
ahead: the programs of a run, compiled for other devices.
"""
