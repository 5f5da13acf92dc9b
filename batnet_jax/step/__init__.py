"""One training step as a pure function: augmentation, network, losses, optimizer.

train_step: the step, its state, and the parts that a run keeps (`Recipe`).
augment, losses, class_margins, optimizer, averaging: what a step consists of.
accumulation: a batch in parts. freezing: parts of the network that stay as they are.
packing: the state as few arrays. memory: an estimate of a step's memory.
"""
