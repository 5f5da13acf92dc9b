"""A training run: start or resume it, take its steps, save and evaluate on the way.

`loop.py` holds the loop itself; `start.py` restores or initialises the state; `run_length.py` plans
steps and batches; `window.py` averages the metrics between two lines of metrics.jsonl.
"""
