"""What the tests of several PyTorch networks need."""


def settle(network, images):
    """Give a network the statistics of images, so that its features are of the usual size."""
    for module in network.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    network.train()(images)
    network.eval()
