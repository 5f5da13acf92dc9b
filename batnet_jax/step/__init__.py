"""One training step as a pure function: augmentation, network, losses, optimizer."""
