"""Losses, gradients, optimizer and random erasing again, slow and obvious, in NumPy float64.

As support/network_oracle.py, it is written from the paper, imports none of the code under test, and
is differentiated by autograd.
"""

import math

import numpy as np
from autograd import numpy as anp
from autograd import value_and_grad
from autograd.tracer import getval

from support.network_oracle import network, relu


def triplet_loss(features, pids, margin, num_negatives):
    """Compare every anchor's farthest positive with its `num_negatives` nearest negatives."""
    people = [features[i] for i in range(len(features))]
    hinges = []
    for i, anchor in enumerate(people):
        positives, negatives = [], []
        for j, other in enumerate(people):
            if j != i:
                apart = anchor - other
                distance = anp.sqrt((apart * apart).sum())
                (positives if pids[i] == pids[j] else negatives).append(distance)
        for negative in sorted(negatives)[:num_negatives]:
            hinges.append(relu(max(positives) - negative + margin))
    return sum(hinges) / len(hinges)


def cross_entropy(scores, labels, smoothing):
    total = 0.0
    for i, label in enumerate(labels):
        row = scores[i]
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        top = getval(row).max()  # a constant, against overflow
        log_sum = top + anp.log(anp.exp(row - top).sum())
        total = total + (target * (log_sum - row)).sum()
    return total / len(scores)


def multi_task_loss(features, scores, labels, *, margin, num_negatives, smoothing):
    """Return the sum of both losses, averaged over the streams."""
    ranking = [triplet_loss(f, labels, margin, num_negatives) for f in features.values()]
    naming = [cross_entropy(s, labels, smoothing) for s in scores.values()]
    return (sum(ranking) + sum(naming)) / len(features)


def map_tree(function, tree, *others):
    if isinstance(tree, dict):
        return {key: map_tree(function, tree[key], *(o[key] for o in others)) for key in tree}
    return function(tree, *others)


def loss_and_gradients(params, stats, images, labels, *, loss, net):
    """Return the loss of a training batch, its gradients by `params` and the new statistics.

    `loss` and `net` are the options of `multi_task_loss` and `network`.
    """
    new_stats = {}

    def total_loss(params):
        features, scores, new = network(images, params, stats, True, **net)
        new_stats.update(new)
        return multi_task_loss(features, scores, labels, **loss)

    value, gradients = value_and_grad(total_loss)(params)
    return value, gradients, new_stats


def train(params, stats, batches, rates, *, loss, net, adam):
    """Take a step for each batch; return the losses, the last parameters and statistics."""
    moments = map_tree(lambda value: (np.zeros(value.shape),) * 2, params)
    losses = []
    for t, ((images, labels), rate) in enumerate(zip(batches, rates, strict=True), start=1):
        value, gradients, stats = loss_and_gradients(
            params, stats, images, labels, loss=loss, net=net
        )
        losses.append(value)
        steps = map_tree(
            lambda *leaf, t=t, rate=rate: adam_step(*leaf, t, rate, **adam),
            params, gradients, moments,
        )  # fmt: skip
        params, moments = (map_tree(lambda pair, i=i: pair[i], steps) for i in (0, 1))
    return losses, params, stats


def adam_step(value, gradient, moments, t, rate, *, beta1, beta2, weight_decay, decoupled=False):
    """Take step t, from 1, of torch.optim.Adam, or of AdamW if `decoupled`; eps is 1e-8.

    Returns: the new value and the two new moments.
    """
    if decoupled:
        value = value - rate * weight_decay * value
    else:
        gradient = gradient + weight_decay * value
    first = beta1 * moments[0] + (1 - beta1) * gradient
    second = beta2 * moments[1] + (1 - beta2) * gradient**2
    step = first / (1 - beta1**t)
    value = value - rate * step / (np.sqrt(second / (1 - beta2**t)) + 1e-8)
    return value, (first, second)


def adam(value, gradients, rates, **options):
    """Take a step for each gradient; return the last value."""
    value, moments = np.array(value, np.float64), (0.0, 0.0)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        value, moments = adam_step(value, gradient, moments, t, rate, **options)
    return value


def erasing_size(rng, height, width):
    """Draw rectangles until one fits (Zhong et al. 2017)."""
    while True:
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return h, w
