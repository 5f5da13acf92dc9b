"""Evaluation: features of query and gallery, rankings, figures, files (section 5.2 of the paper).

embed: a network as a function from images to features.
ranked_test: a test embedded and ranked.
attention: the maps around each Bi-attention, and their energy.
layer_shares: the shares of the person and of other layers in the energy of maps of drawn images.
extra_figures: the figures that `eval` fields add, such as re-ranking.
query_figures: the figures of each query, in `eval/step_<N>.npz`.
evaluate: the whole, from a network to `eval/step_<N>.json` and the table on stdout.
evaluated_run: a workdir read back: settings, an evaluation, learning curves.
parquet/: features in Parquet files.
paired: statistics of runs with the same queries or the same seeds.
run_groups: settings that differ, and groups of runs that differ in the seed alone.
comparison: all of this for several runs: `compare`.
"""

from batnet_jax.evaluation.comparison import compare

__all__ = ["compare"]
