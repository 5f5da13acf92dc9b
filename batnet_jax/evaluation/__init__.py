"""Evaluation: features of query and gallery, rankings, figures, files (section 5.2 of the paper).

embed: a network as a function from images to features.
ranked_test: a test embedded and ranked.
own_images: queries whose own image is in the gallery.
attention: the maps around each Bi-attention, and their energy.
layer_shares: the shares of the person and of other layers in the energy of maps of drawn images.
baselines: the figures of chance, of raw pixels and of the untrained network.
extra_figures: the figures that `eval` fields add, such as re-ranking.
query_figures: the figures of each query, in `eval/step_<N>.npz`.
evaluate: all of these, from a network to `eval/step_<N>.json` and the table on stdout.
labelled_features, sharded_features: features and labels from files of other frameworks.
parquet/: features in Parquet files.
evaluated_run: a workdir read back: settings, an evaluation, learning curves.
paired: statistics of runs with the same queries or the same seeds.
run_groups: settings that differ, and groups of runs that differ only in the seed.
comparison: `compare`, which compares several runs.
"""

from batnet_jax.evaluation.comparison import compare

__all__ = ["compare"]
