"""The network again, slow and obvious, in NumPy float64; support/training_oracle.py trains it.

It is written from the paper and imports none of the code under test. Variables are nested dicts
under the code's names. autograd differentiates it.
"""

import functools
import math

import numpy as np
from autograd import numpy as anp
from autograd.tracer import getval

# Measured on the published PyTorch network: 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool
# projection.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 204, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 48, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
BLOCKS = {2: ("3a", "3b"), 3: ("4a", "4b", "4c", "4d", "4e"), 4: ("5a", "5b")}


def random_values(shapes, seed):
    """Return random float64 values for a tree of shapes; no parameter or statistic is 0 or 1."""
    rng = np.random.default_rng(seed)

    def draw(name, leaf):
        if isinstance(leaf, dict) or hasattr(leaf, "items"):
            return {key: draw(key, value) for key, value in leaf.items()}
        if name == "kernel":
            return rng.standard_normal(leaf.shape) * math.sqrt(2 / np.prod(leaf.shape[:-1]))
        if name in ("bias", "mean"):
            return 0.3 * rng.standard_normal(leaf.shape)
        assert name in ("scale", "var")
        return rng.uniform(0.5, 1.5, leaf.shape)

    return draw("", shapes)


def count_parameters(*, identities, attention, position, reduction, num_parts, width, embedding):
    """Count kernels, biases, and two values for each channel of a batch normalisation."""

    def scaled(channels):
        return max(1, round(channels * width))

    def conv_bn(inputs, outputs, kernel=1):
        return inputs * outputs * kernel**2 + outputs + 2 * outputs

    def block(number, inputs):
        total = 0
        for name in BLOCKS[number]:
            one, reduce3, three, reduce5, five, pool = map(scaled, INCEPTIONS[name])
            total += conv_bn(inputs, one) + conv_bn(inputs, pool)
            total += conv_bn(inputs, reduce3) + conv_bn(reduce3, three, 3)
            total += conv_bn(inputs, reduce5) + conv_bn(reduce5, five, 5)
            inputs = one + three + five + pool
        return total, inputs

    def head(inputs):
        embed = 2 * inputs + inputs * embedding + embedding + 2 * embedding
        return embed + embedding * identities + identities

    first, second, third = scaled(64), scaled(64), scaled(192)
    total = conv_bn(3, first, 7) + conv_bn(first, second) + conv_bn(second, third, 3)
    channels = {"p1": third}
    for number in (2, 3, 4):
        added, channels[f"p{number}"] = block(number, channels[f"p{number - 1}"])
        total += added * (1 if number == 2 else 1 + num_parts)
    total += head(channels["p4"]) + (head(num_parts * channels["p4"]) if num_parts else 0)
    if attention != "none":
        c = channels[position]
        embedded = max(1, c // reduction)
        pairs = embedded * (embedded + 1) // 2
        total += conv_bn(c, embedded) + conv_bn(pairs, c) * (2 if attention == "aia" else 1)
    return total


def batch_norm(x, params, stats, train, *, momentum=0.1, epsilon=1e-5):
    """Normalise by the biased variance and keep the unbiased one, as PyTorch does."""
    if train:
        over = tuple(range(len(x.shape) - 1))
        count = math.prod(x.shape[:-1])
        mean = x.mean(over)
        squares = ((x - mean) ** 2).sum(over)
        var = squares / count
        # Statistics carry no gradient.
        moments = {"mean": getval(mean), "var": getval(squares) / (count - 1)}
        stats = {
            name: (1 - momentum) * stats[name] + momentum * new for name, new in moments.items()
        }
    else:
        mean, var = stats["mean"], stats["var"]
    return (x - mean) / anp.sqrt(var + epsilon) * params["scale"] + params["bias"], stats


def relu(x):
    return anp.maximum(x, 0)


def windows(x, side, stride):
    """Yield the values [b, h', w', c] that all square windows on x [b, h, w, c] have at a place.

    The places are yielded row by row.
    """
    rows, columns = ((size - side) // stride + 1 for size in x.shape[1:3])
    for i in range(side):
        for j in range(side):
            yield x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]


def conv2d(x, kernel, *, padding, stride):
    """Map [b, h, w, c] and [side, side, c, d] to [b, h', w', d], with zeros around the map."""
    x = anp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)], mode="constant")
    side, _, inputs, outputs = kernel.shape
    matrices = kernel.reshape(side * side, inputs, outputs)
    return sum(here @ matrices[place] for place, here in enumerate(windows(x, side, stride)))


def conv_bn(x, params, stats, train, stride=1):
    """Convolve with side // 2 zeros around the map, so that stride 1 keeps the size."""
    kernel = params["conv"]["kernel"]
    y = conv2d(x, kernel, padding=kernel.shape[0] // 2, stride=stride) + params["conv"]["bias"]
    y, new = batch_norm(y, params["bn"], stats["bn"], train)
    return relu(y), {"bn": new}


def max_pool(x, *, stride, padding, ceil=False):
    """Pool as PyTorch's MaxPool2d(3, stride, padding, ceil_mode=ceil)."""

    def pads(size):
        steps = (size + 2 * padding - 3) / stride
        count = (math.ceil(steps) if ceil else math.floor(steps)) + 1
        if ceil and (count - 1) * stride >= size + padding:
            count -= 1
        return padding, max(padding, (count - 1) * stride + 3 - size - padding)

    widths = [(0, 0), *(pads(size) for size in x.shape[1:3]), (0, 0)]
    x = anp.pad(x, widths, mode="constant", constant_values=-np.inf)
    return functools.reduce(anp.maximum, windows(x, 3, stride))


def inception(x, params, stats, train):
    new = {}

    def layer(x, name):
        y, new[name] = conv_bn(x, params[name], stats[name], train)
        return y

    branches = [
        layer(x, "one"),
        layer(layer(x, "reduce3"), "three"),
        layer(layer(x, "reduce5"), "five"),
        layer(max_pool(x, stride=1, padding=1), "pool"),
    ]
    return anp.concatenate(branches, -1), new


def stem(x, params, stats, train):
    new = {}
    x, new["conv1"] = conv_bn(x, params["conv1"], stats["conv1"], train, stride=2)
    x = max_pool(x, stride=2, padding=1)
    x, new["conv2"] = conv_bn(x, params["conv2"], stats["conv2"], train)
    x, new["conv3"] = conv_bn(x, params["conv3"], stats["conv3"], train)
    return max_pool(x, stride=2, padding=1), new


def block(number, x, params, stats, train):
    new = {}
    for name in [f"inception_{name}" for name in BLOCKS[number]]:
        x, new[name] = inception(x, params[name], stats[name], train)
    if number == 2:
        x = max_pool(x, stride=2, padding=0, ceil=True)
    elif number == 3:
        x = max_pool(x, stride=2, padding=1)
    return x, new


def bilinear(x):
    """Return the upper triangle of the outer product, row by row."""
    rows, columns = np.triu_indices(x.shape[-1])
    return (x[..., :, None] * x[..., None, :])[..., rows, columns]


def bi_attention(x, params, stats, train, aia):
    """Return the masked map, the mask and the new statistics (Eq. 1-6)."""
    new = {}
    embedded, new["embed"] = conv_bn(x, params["embed"], stats["embed"], train)
    second_order = bilinear(embedded)
    local, new["local"] = conv_bn(second_order, params["local"], stats["local"], train)
    if aia:
        m = second_order.mean((1, 2), keepdims=True)
        weight, new["global"] = conv_bn(m, params["global"], stats["global"], train)
        local = local * weight
    mask = 1 / (1 + anp.exp(-local))
    return mask * x, mask, new


def crop_and_resize(x, part, num_parts):
    """Resize the part's rows alone to all h rows: half-pixel centres, edges repeated."""
    height = x.shape[1]
    crop = x[:, part * height // num_parts : (part + 1) * height // num_parts]
    out = []
    for i in range(height):
        position = (i + 0.5) * crop.shape[1] / height - 0.5
        below = math.floor(position)
        share = position - below
        last = crop.shape[1] - 1
        before, after = (min(max(row, 0), last) for row in (below, below + 1))
        out.append((1 - share) * crop[:, [before]] + share * crop[:, [after]])
    return anp.concatenate(out, 1)


def affine_grid_sample(x, part, num_parts):
    """Sample as PyTorch 1.1's affine_grid and grid_sample do: corners aligned, zeros outside.

    The grid runs from -1 (first row's centre) to 1 (last row's); T = 4 has the offsets -3/4, -1/4,
    1/4, 3/4.
    """
    height = x.shape[1]
    offset = -1 + (2 * part + 1) / num_parts
    out = []
    for i in range(height):
        y = (-1 + 2 * i / (height - 1)) / num_parts + offset
        position = (y + 1) / 2 * (height - 1)
        below = math.floor(position)
        shares = {below: 1 - (position - below), below + 1: position - below}
        out.append(sum(s * x[:, [row]] for row, s in shares.items() if 0 <= row < height))
    return anp.concatenate(out, 1)


SAMPLERS = {"paper": crop_and_resize, "published": affine_grid_sample}


def head(x, params, stats, train, *, with_relu):
    """Return the feature, the scores and the new statistics; without dropout."""
    new = {}
    x, new["map_bn"] = batch_norm(x, params["map_bn"], stats["map_bn"], train)
    x = (relu(x) if with_relu else x).mean((1, 2))
    x = x @ params["embedding"]["kernel"] + params["embedding"]["bias"]
    x, new["bn"] = batch_norm(x, params["bn"], stats["bn"], train)
    feature = relu(x)
    return feature, feature @ params["classifier"]["kernel"] + params["classifier"]["bias"], new


def network(images, params, stats, train, *, attention, num_parts, sampling, position="p2"):
    """Run BAT-net without dropout; return features, scores and new statistics."""
    new, features, scores = {}, {}, {}

    def attend(x, here):
        if attention == "none" or here != position:
            return x
        x, _, new["bi_attention"] = bi_attention(
            x, params["bi_attention"], stats["bi_attention"], train, attention == "aia"
        )
        return x

    def embed(x, name, with_relu):
        features[name], scores[name], new[f"{name}_head"] = head(
            x, params[f"{name}_head"], stats[f"{name}_head"], train, with_relu=with_relu
        )

    def named_block(number, x, name, params, stats, new):
        if not BLOCKS[number]:  # a test's short network: no variables
            return block(number, x, {}, {}, train)[0]
        x, new[name] = block(number, x, params[name], stats[name], train)
        return x

    x, new["blk1"] = stem(images, params["blk1"], stats["blk1"], train)
    x = named_block(2, attend(x, "p1"), "blk2", params, stats, new)
    x = attend(x, "p2")
    y = named_block(3, x, "blk3", params, stats, new)
    y = named_block(4, attend(y, "p3"), "blk4", params, stats, new)
    embed(attend(y, "p4"), "appearance", with_relu=True)
    if num_parts:
        parts, new["part_streams"] = [], {}
        own = params["part_streams"], stats["part_streams"], new["part_streams"]
        for t in range(num_parts):
            y = SAMPLERS[sampling](x, t, num_parts)
            y = named_block(3, y, f"stream{t}_blk3", *own)
            parts.append(named_block(4, y, f"stream{t}_blk4", *own))
        embed(anp.concatenate(parts, -1), "part", with_relu=False)
    return features, scores, new
