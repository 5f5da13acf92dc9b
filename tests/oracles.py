"""Network, losses, optimizer and sampling once more: slow, obvious, NumPy float64.

It imports none of the code under test. Variables are nested dicts under the code's names.
"""

import math

import numpy as np

# FACTS: 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection.
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
    """Float64 values for a tree of shapes, such that every parameter and statistic matters."""
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
    """By hand: kernels, biases, and two values a channel of every batch normalisation."""

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


def convolve(x, kernel, bias, stride=1):
    """[b, h, w, c] with the kernel's side // 2 of zeros around."""
    side = kernel.shape[0]
    pad = side // 2
    padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    rows = (padded.shape[1] - side) // stride + 1
    columns = (padded.shape[2] - side) // stride + 1
    out = np.empty((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            patch = padded[:, top : top + side, left : left + side]
            out[:, i, j] = np.tensordot(patch, kernel, 3) + bias
    return out


def batch_norm(x, params, stats, train, *, momentum=0.1, epsilon=1e-5):
    """PyTorch's: normalises by the biased variance, keeps the unbiased one."""
    if train:
        flat = x.reshape(-1, x.shape[-1])
        mean = flat.sum(0) / len(flat)
        squares = ((flat - mean) ** 2).sum(0)
        var = squares / len(flat)
        unbiased = squares / (len(flat) - 1)
        stats = {
            "mean": (1 - momentum) * stats["mean"] + momentum * mean,
            "var": (1 - momentum) * stats["var"] + momentum * unbiased,
        }
    else:
        mean, var = stats["mean"], stats["var"]
    return (x - mean) / np.sqrt(var + epsilon) * params["scale"] + params["bias"], stats


def relu(x):
    return np.where(x > 0, x, 0)


def conv_bn(x, params, stats, train, stride=1):
    y = convolve(x, params["conv"]["kernel"], params["conv"]["bias"], stride)
    y, new = batch_norm(y, params["bn"], stats["bn"], train)
    return relu(y), {"bn": new}


def max_pool(x, *, stride, padding, ceil=False):
    """PyTorch's MaxPool2d(3, stride, padding, ceil_mode=ceil), windows cut at the border."""

    def windows(size):
        steps = (size + 2 * padding - 3) / stride
        count = (math.ceil(steps) if ceil else math.floor(steps)) + 1
        if ceil and (count - 1) * stride >= size + padding:
            count -= 1
        starts = [i * stride - padding for i in range(count)]
        return [slice(max(start, 0), min(start + 3, size)) for start in starts]

    rows = [[x[:, r, c].max((1, 2)) for c in windows(x.shape[2])] for r in windows(x.shape[1])]
    return np.stack([np.stack(row, 1) for row in rows], 1)


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
    return np.concatenate(branches, -1), new


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
    """The upper triangle of the outer product, row by row."""
    rows, columns = np.triu_indices(x.shape[-1])
    return (x[..., :, None] * x[..., None, :])[..., rows, columns]


def bi_attention(x, params, stats, train, aia):
    """Eq. 1-6. Returns the masked map, the mask and the new statistics."""
    new = {}
    embedded, new["embed"] = conv_bn(x, params["embed"], stats["embed"], train)
    second_order = bilinear(embedded)
    local, new["local"] = conv_bn(second_order, params["local"], stats["local"], train)
    if aia:
        m = second_order.mean((1, 2))[:, None, None, :]
        weight, new["global"] = conv_bn(m, params["global"], stats["global"], train)
        local = local * weight
    mask = 1 / (1 + np.exp(-local))
    return mask * x, mask, new


def crop_and_resize(x, part, num_parts):
    """The part's rows alone, [b, h / T, w, c], to [b, h, w, c]: half-pixel, edges repeated."""
    height = x.shape[1]
    crop = x[:, part * height // num_parts : (part + 1) * height // num_parts]
    out = np.empty_like(x)
    for i in range(height):
        position = (i + 0.5) * crop.shape[1] / height - 0.5
        below = math.floor(position)
        share = position - below
        last = crop.shape[1] - 1
        before, after = (min(max(row, 0), last) for row in (below, below + 1))
        out[:, i] = (1 - share) * crop[:, before] + share * crop[:, after]
    return out


def affine_grid_sample(x, part, num_parts):
    """PyTorch 1.1's affine_grid and grid_sample along the height: corners aligned, zeros outside.

    The grid runs from -1 (first row's centre) to 1 (last row's); T = 4 has the offsets -3/4, -1/4,
    1/4, 3/4.
    """
    height = x.shape[1]
    offset = -1 + (2 * part + 1) / num_parts
    out = np.zeros_like(x)
    for i in range(height):
        y = (-1 + 2 * i / (height - 1)) / num_parts + offset
        position = (y + 1) / 2 * (height - 1)
        below = math.floor(position)
        for row, share in ((below, 1 - (position - below)), (below + 1, position - below)):
            if 0 <= row < height:
                out[:, i] += share * x[:, row]
    return out


SAMPLERS = {"paper": crop_and_resize, "published": affine_grid_sample}


def head(x, params, stats, train, *, with_relu):
    """Without dropout. Returns feature, scores and the new statistics."""
    new = {}
    x, new["map_bn"] = batch_norm(x, params["map_bn"], stats["map_bn"], train)
    x = (relu(x) if with_relu else x).mean((1, 2))
    x = x @ params["embedding"]["kernel"] + params["embedding"]["bias"]
    x, new["bn"] = batch_norm(x, params["bn"], stats["bn"], train)
    feature = relu(x)
    return feature, feature @ params["classifier"]["kernel"] + params["classifier"]["bias"], new


def network(images, params, stats, train, *, attention, num_parts, sampling):
    """BAT-net without dropout, the Bi-attention at p2: outputs as the code's, new statistics."""
    new, features, scores = {}, {}, {}
    x, new["blk1"] = stem(images, params["blk1"], stats["blk1"], train)
    x, new["blk2"] = block(2, x, params["blk2"], stats["blk2"], train)
    if attention != "none":
        x, _, new["bi_attention"] = bi_attention(
            x, params["bi_attention"], stats["bi_attention"], train, attention == "aia"
        )
    y, new["blk3"] = block(3, x, params["blk3"], stats["blk3"], train)
    appearance, new["blk4"] = block(4, y, params["blk4"], stats["blk4"], train)
    features["appearance"], scores["appearance"], new["appearance_head"] = head(
        appearance, params["appearance_head"], stats["appearance_head"], train, with_relu=True
    )
    if num_parts:
        parts, own, new["part_streams"] = [], params["part_streams"], {}
        for t in range(num_parts):
            y = SAMPLERS[sampling](x, t, num_parts)
            for number in (3, 4):
                name = f"stream{t}_blk{number}"
                y, new["part_streams"][name] = block(
                    number, y, own[name], stats["part_streams"][name], train
                )
            parts.append(y)
        features["part"], scores["part"], new["part_head"] = head(
            np.concatenate(parts, -1), params["part_head"], stats["part_head"], train,
            with_relu=False,
        )  # fmt: skip
    return features, scores, new


def triplet_loss(features, pids, margin, num_negatives):
    """Every anchor: its farthest positive against each of its `num_negatives` nearest negatives."""
    hinges = []
    for i, anchor in enumerate(features):
        positives, negatives = [], []
        for j, other in enumerate(features):
            distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(anchor, other, strict=True)))
            if j != i:
                (positives if pids[i] == pids[j] else negatives).append(distance)
        for negative in sorted(negatives)[:num_negatives]:
            hinges.append(max(0.0, max(positives) - negative + margin))
    return sum(hinges) / len(hinges)


def cross_entropy(scores, labels, smoothing):
    total = 0.0
    for row, label in zip(scores, labels, strict=True):
        log_sum = max(row) + math.log(sum(math.exp(s - max(row)) for s in row))
        for n, score in enumerate(row):
            target = smoothing / len(row) + (1 - smoothing if n == label else 0)
            total += target * (log_sum - score)
    return total / len(scores)


def adam(values, gradients, learning_rates, *, beta1, beta2, weight_decay, decoupled=False):
    """torch.optim.Adam(weight_decay=...), or AdamW where `decoupled`, eps 1e-8: the last values."""
    values = np.array(values, np.float64)
    first, second = np.zeros_like(values), np.zeros_like(values)
    for t, (gradient, rate) in enumerate(zip(gradients, learning_rates, strict=True), start=1):
        if decoupled:
            values = values - rate * weight_decay * values
        else:
            gradient = gradient + weight_decay * values
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        step = first / (1 - beta1**t)
        values = values - rate * step / (np.sqrt(second / (1 - beta2**t)) + 1e-8)
    return values


def erasing_size(rng, height, width):
    """Zhong et al. 2017: draws until the rectangle fits."""
    while True:
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return h, w
