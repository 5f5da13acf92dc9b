"""A generated data set of drawn pedestrians: `draw` has its public functions."""
