"""OSNet in PyTorch under the names of its public weights, written from the two papers.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019; "Learning
Generalisable Omni-Scale Representations for Person Re-Identification", TPAMI 2021. `osnet.py` races
it, and the tests compare it with ours.
"""

import torch
from torch import nn
from torch.nn import functional

CHANNELS = (64, 256, 384, 512)
STREAMS = 4
# Where the blocks of osnet_ain have instance normalisation.
INSIDE = (True, True), (False, True), (True, False)


def conv_norm(inputs, outputs, kernel=1, stride=1, norm=nn.BatchNorm2d):
    """Return a convolution `conv` and, unless None, its normalisation `bn`."""
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False))
    if norm is not None:
        layer.add_module("bn", norm(outputs))
    return layer


def instance_norm(channels):
    """Return a normalisation by each map's own statistics."""
    return nn.InstanceNorm2d(channels, affine=True)


class Light(nn.Module):
    """Light 3 x 3: channels are mixed by a 1 x 1 convolution, pixels by a depthwise one."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return functional.relu(self.bn(self.conv2(self.conv1(x))))


class Stream(nn.Module):
    """Light convolutions in a row, as osnet_ain names them."""

    def __init__(self, channels, depth):
        super().__init__()
        self.layers = nn.Sequential(*(Light(channels) for _ in range(depth)))

    def forward(self, x):
        return self.layers(x)


class Gate(nn.Module):
    """The unified aggregation gate: a share of each channel, from the map's means."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(1, channels // 16), 1)
        self.fc2 = nn.Conv2d(max(1, channels // 16), channels, 1)

    def forward(self, x):
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(functional.relu(self.fc1(means))))


class OmniBlock(nn.Module):
    """A block of four streams beside a shortcut.

    `norm` is "none", "after" the sum (osnet_ibn), or "inside" the residual (osnet_ain).
    """

    def __init__(self, inputs, outputs, norm, listed):
        super().__init__()
        middle = outputs // 4
        self.conv1 = conv_norm(inputs, middle)
        self.listed = listed
        if listed:
            self.conv2 = nn.ModuleList(Stream(middle, depth) for depth in range(1, STREAMS + 1))
        else:
            self.conv2a = Light(middle)
            for depth in range(2, STREAMS + 1):
                stream = nn.Sequential(*(Light(middle) for _ in range(depth)))
                self.add_module(f"conv2{'abcd'[depth - 1]}", stream)
        self.gate = Gate(middle)
        self.conv3 = conv_norm(middle, outputs, norm=None if norm == "inside" else nn.BatchNorm2d)
        self.downsample = conv_norm(inputs, outputs) if inputs != outputs else nn.Identity()
        self.norm = norm
        if norm != "none":
            self.IN = instance_norm(outputs)

    def forward(self, x):
        y = functional.relu(self.conv1(x))
        letters = "abcd"[:STREAMS]
        streams = self.conv2 if self.listed else [getattr(self, f"conv2{k}") for k in letters]
        y = self.conv3(sum(self.gate(stream(y)) for stream in streams))
        if self.norm == "inside":
            y = self.IN(y)
        y = y + self.downsample(x)
        if self.norm == "after":
            y = self.IN(y)
        return functional.relu(y)


class TorchOSNet(nn.Module):
    """[b, 3, h, w], normalised, to the feature and the scores; `maps` gives p1 to p4.

    Args: kind is "plain", "ibn" or "ain"; width multiplies `CHANNELS`.
    """

    def __init__(self, kind="plain", *, width=1.0, classes=1000, embedding=512):
        super().__init__()
        stem, *outputs = (max(1, round(width * channels)) for channels in CHANNELS)
        listed = kind == "ain"
        norm = nn.BatchNorm2d if kind == "plain" else instance_norm
        self.conv1 = conv_norm(3, stem, 7, 2, norm)
        inputs = stem
        for stage, channels in enumerate(outputs):
            norms = {
                "plain": ("none", "none"),
                "ibn": ("after", "after") if stage == 0 else ("none", "none"),
                "ain": tuple("inside" if inside else "none" for inside in INSIDE[stage]),
            }[kind]
            blocks = [OmniBlock(inputs, channels, norms[0], listed)]
            blocks.append(OmniBlock(channels, channels, norms[1], listed))
            inputs = channels
            if stage < 2:
                pooling = nn.Sequential(conv_norm(channels, channels), nn.ReLU(), nn.AvgPool2d(2))
                if listed:
                    self.add_module(f"pool{stage + 2}", pooling)
                else:
                    blocks.append(pooling)
            self.add_module(f"conv{stage + 2}", nn.Sequential(*blocks))
        self.listed = listed
        self.conv5 = conv_norm(inputs, inputs)
        self.fc = nn.Sequential(nn.Linear(inputs, embedding), nn.BatchNorm1d(embedding), nn.ReLU())
        self.classifier = nn.Linear(embedding, classes)

    def maps(self, x):
        """Return the maps at p1, p2, p3 and p4."""
        p1 = functional.max_pool2d(functional.relu(self.conv1(x)), 3, 2, 1)
        p2, p3 = self.conv2(p1), None
        if self.listed:
            p2 = self.pool2(p2)
            p3 = self.pool3(self.conv3(p2))
        else:
            p3 = self.conv3(p2)
        return p1, p2, p3, functional.relu(self.conv5(self.conv4(p3)))

    def forward(self, x):
        feature = self.fc(self.maps(x)[-1].mean((2, 3)))
        return feature, self.classifier(feature)
