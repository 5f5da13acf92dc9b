"""The published network in PyTorch under its names, written from a description of it.

Bi() is the outer product and its diagonals 0, -1, -2, ...; parts are sampled by an affine grid with
corners aligned. `width` scales the backbone's channels as ours does.

The module lies here because a benchmark's script finds its neighbours. The tests find it by
pytest's `pythonpath`: tests may import benchmarks, but benchmarks may not import tests.
"""

import torch
from network_cost import TABLE
from torch import nn
from torch.nn import functional


def conv_bn_relu(inputs, outputs, kernel, stride=1):
    """As every convolution of GoogLeNet-BN."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Branches(nn.Module):
    """An inception."""

    def __init__(self, inputs, widths):
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.conv1 = conv_bn_relu(inputs, one, 1)
        self.conv3_1 = conv_bn_relu(inputs, reduce3, 1)
        self.conv3_3 = conv_bn_relu(reduce3, three, 3)
        self.conv5_1 = conv_bn_relu(inputs, reduce5, 1)
        self.conv5_5 = conv_bn_relu(reduce5, five, 5)
        self.conv_max_1 = conv_bn_relu(inputs, pool, 1)
        self.outputs = one + three + five + pool

    def forward(self, x):
        pooled = functional.max_pool2d(x, 3, 1, 1)
        fives = self.conv5_5(self.conv5_1(x))
        branches = [self.conv1(x), self.conv3_3(self.conv3_1(x)), fives, self.conv_max_1(pooled)]
        return torch.cat(branches, 1)


class Stem(nn.Module):
    """Blk1."""

    def __init__(self, scale):
        super().__init__()
        self.conv1 = conv_bn_relu(3, scale(64), 7, 2)
        self.conv2 = conv_bn_relu(scale(64), scale(64), 1)
        self.conv3 = conv_bn_relu(scale(64), scale(192), 3)

    def forward(self, x):
        x = functional.max_pool2d(self.conv1(x), 3, 2, 1)
        return functional.max_pool2d(self.conv3(self.conv2(x)), 3, 2, 1)


class Stage(nn.Sequential):
    """Inceptions by name, then a max-pooling by 2 given as (padding, ceil_mode), or None."""

    def __init__(self, inputs, names, scale, pooling):
        super().__init__()
        for name in names:
            branches = Branches(inputs, [scale(width) for width in TABLE[name]])
            self.add_module(f"inception_{name}", branches)
            inputs = branches.outputs
        self.outputs = inputs
        self.pooling = pooling

    def forward(self, x):
        x = super().forward(x)
        if self.pooling is None:
            return x
        padding, ceil = self.pooling
        return functional.max_pool2d(x, 3, 2, padding, ceil_mode=ceil)


class Embedding(nn.Sequential):
    """1x1 convolution, BN, ReLU, under the names `conv.conv` and `conv.bn`."""

    def __init__(self, inputs, outputs):
        inner = nn.Sequential()
        inner.add_module("conv", nn.Conv2d(inputs, outputs, 1))
        inner.add_module("bn", nn.BatchNorm2d(outputs))
        super().__init__()
        self.add_module("conv", inner)

    def forward(self, x):
        return functional.relu(super().forward(x))


def published_bilinear(x):
    """Bi() of [b, c, h, w] in the published order of channels."""
    b, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, c)
    product = rows[:, :, None] * rows[:, None, :]
    diagonals = [torch.diagonal(product, -i, 1, 2) for i in range(c)]
    return torch.cat(diagonals, 1).reshape(b, h, w, -1).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """The Bi-attention, with AiA or without."""

    def __init__(self, channels, reduction, aia):
        super().__init__()
        embedded = channels // reduction
        self.dimReduceLayer1 = Embedding(channels, embedded)
        self.dimReduceLayer2 = Embedding(embedded * (embedded + 1) // 2, channels)
        if aia:
            self.dimReduceLayer3 = Embedding(embedded * (embedded + 1) // 2, channels)

    def forward(self, x):
        pairs = published_bilinear(self.dimReduceLayer1(x))
        mask = self.dimReduceLayer2(pairs)
        if hasattr(self, "dimReduceLayer3"):
            mask = mask * self.dimReduceLayer3(pairs.mean((2, 3), keepdim=True))
        return x * torch.sigmoid(mask)


class Predictor(nn.Module):
    """Never used, but in the published checkpoints."""

    def __init__(self, channels, parts):
        super().__init__()
        self.fc = nn.Linear(channels, 2 * parts)
        centres = [(2 * k + 1) / parts - 1 for k in range(parts)]
        with torch.no_grad():
            self.fc.weight.zero_()
            self.fc.bias.copy_(torch.tensor([0.0] * parts + centres))


class Maps(nn.Module):
    """[b, 3, h, w] to the appearance map and, if there are parts, the part map."""

    attention = Attention

    def __init__(self, scale, attention, reduction, parts):
        super().__init__()
        fours = (["4a", "4b", "4c", "4d", "4e"], scale, (1, False))
        fives = (["5a", "5b"], scale, None)
        self.conv = Stem(scale)
        self.inception1 = Stage(scale(192), ["3a", "3b"], scale, (0, True))
        channels = self.inception1.outputs
        if attention != "none":
            block = self.attention(channels, reduction, attention == "aia")
            self.bilinearatt_global = block
        self.inception2 = Stage(channels, *fours)
        self.inception3 = Stage(self.inception2.outputs, *fives)
        last = self.inception3.outputs
        self.norm1_1 = nn.BatchNorm2d(last)
        self.parts = parts
        if parts:
            self.inception2_local = nn.ModuleList(Stage(channels, *fours) for _ in range(parts))
            middle = self.inception2.outputs
            self.inception3_local = nn.ModuleList(Stage(middle, *fives) for _ in range(parts))
            self.norm1_2 = nn.BatchNorm2d(parts * last)
            for number, width in enumerate((channels, middle, last), 1):
                self.add_module(f"part_predictor{number}", Predictor(width, parts))

    def sample(self, x, part):
        """The map that a part's stream sees."""
        theta = torch.tensor([[1, 0, 0], [0, 1 / self.parts, (2 * part + 1) / self.parts - 1]])
        theta = theta.to(x).expand(len(x), 2, 3)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=True)
        return functional.grid_sample(x, grid, align_corners=True)

    def forward(self, x):
        x = self.inception1(self.conv(x))
        if hasattr(self, "bilinearatt_global"):
            x = self.bilinearatt_global(x)
        maps = [functional.relu(self.norm1_1(self.inception3(self.inception2(x))))]
        if self.parts:
            streams = zip(self.inception2_local, self.inception3_local, strict=True)
            parts = [five(four(self.sample(x, t))) for t, (four, five) in enumerate(streams)]
            maps.append(self.norm1_2(torch.cat(parts, 1)))
        return maps


class TorchBATNet(nn.Module):
    """[b, 3, h, w], normalised, to [f_a, f_p], each of unit length, side by side."""

    maps = Maps

    def __init__(
        self, identities, *, attention="aia", reduction=16, parts=4, width=1.0, embedding=512
    ):
        super().__init__()

        def scale(channels):
            return max(1, round(channels * width))

        self.features = self.maps(scale, attention, reduction, parts)
        last = self.features.inception3.outputs
        streams = {"global": last, "local": parts * last} if parts else {"global": last}
        for stream, channels in streams.items():
            dense = nn.Linear(channels, embedding)
            fc = nn.Sequential(nn.Dropout(0.1), dense, nn.BatchNorm1d(embedding), nn.ReLU())
            self.add_module(f"fc_{stream}", fc)
            classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(embedding, identities))
            self.add_module(f"classifier_{stream}", classifier)

    def streams(self, x):
        """The features and the identity scores, each a list with an array a stream."""
        maps = self.features(x)
        names = ["global", "local"][: len(maps)]
        features = [
            getattr(self, f"fc_{name}")(m.mean((2, 3))) for name, m in zip(names, maps, strict=True)
        ]
        scores = [
            getattr(self, f"classifier_{name}")(f) for name, f in zip(names, features, strict=True)
        ]
        return features, scores

    def forward(self, x):
        features, _ = self.streams(x)
        return torch.cat([functional.normalize(half) for half in features], 1)


def randomise(model, seed):
    """Values under which every layer matters: He's kernels, statistics other than 0 and 1.

    The part predictors stay as they are: without a gradient, training does not change them.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(shape, low, high):
        return low + (high - low) * torch.rand(shape, generator=generator)

    with torch.no_grad():
        for name, module in model.named_modules():
            if "part_predictor" in name:
                continue
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.weight.copy_(draw(module.weight.shape, 0.8, 1.2))
                module.bias.copy_(draw(module.bias.shape, -0.1, 0.3))
                module.running_mean.copy_(draw(module.running_mean.shape, -0.2, 0.2))
                module.running_var.copy_(draw(module.running_var.shape, 0.8, 1.2))
            elif isinstance(module, nn.InstanceNorm2d):
                module.weight.copy_(draw(module.weight.shape, 0.8, 1.2))
                module.bias.copy_(draw(module.bias.shape, -0.1, 0.3))
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                deviation = (2 / module.weight[0].numel()) ** 0.5
                shape = module.weight.shape
                module.weight.copy_(deviation * torch.randn(shape, generator=generator))
                if module.bias is not None:
                    module.bias.copy_(draw(module.bias.shape, -0.1, 0.1))
    return model.eval()
