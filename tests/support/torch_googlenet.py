"""torchvision's `googlenet` under its parameter names, for tests without torchvision."""

import torch
from network_cost import TABLE
from torch import nn
from torch.nn import functional

TORCHVISION_TABLE = TABLE | {
    "4a": (192, 96, 208, 16, 48, 64),
    "5a": (256, 160, 320, 32, 128, 128),
}
AFTER = {"3b": 3, "4e": 2}  # the side of the pooling after an inception
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class ConvBN(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    def __init__(self, inputs, widths):
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.branch1 = ConvBN(inputs, one, 1)
        self.branch2 = nn.Sequential(ConvBN(inputs, reduce3, 1), ConvBN(reduce3, three, 3))
        self.branch3 = nn.Sequential(ConvBN(inputs, reduce5, 1), ConvBN(reduce5, five, 3))
        pooling = nn.MaxPool2d(3, 1, 1, ceil_mode=True)
        self.branch4 = nn.Sequential(pooling, ConvBN(inputs, pool, 1))
        self.outputs = one + three + five + pool

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


class Auxiliary(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.conv = ConvBN(inputs, 8, 1)
        self.fc1 = nn.Linear(128, 16)
        self.fc2 = nn.Linear(16, 10)


class TorchGoogLeNet(nn.Module):
    """[b, 3, h, w], normalised, to the maps p1..p4. `aux` and `fc` are only for their names."""

    def __init__(self, *, aux, transform_input, width=1.0):
        super().__init__()

        def scale(channels):
            return max(1, round(channels * width))

        self.transform_input = transform_input
        self.conv1 = ConvBN(3, scale(64), 7, 2)
        self.conv2 = ConvBN(scale(64), scale(64), 1)
        self.conv3 = ConvBN(scale(64), scale(192), 3)
        inputs = scale(192)
        for name, widths in TORCHVISION_TABLE.items():
            branches = Branches(inputs, [scale(width) for width in widths])
            self.add_module(f"inception{name}", branches)
            inputs = branches.outputs
        if aux:
            self.aux1, self.aux2 = Auxiliary(8), Auxiliary(8)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        def pool(x, side):
            return functional.max_pool2d(x, side, 2, ceil_mode=True)

        if self.transform_input:
            mean, std = (torch.tensor(v, dtype=x.dtype)[:, None, None] for v in (MEAN, STD))
            x = (x * std + mean - 0.5) / 0.5
        x = pool(self.conv1(x), 3)
        x = pool(self.conv3(self.conv2(x)), 3)
        maps = [x]
        for name in TORCHVISION_TABLE:
            x = getattr(self, f"inception{name}")(x)
            if name in AFTER:
                x = pool(x, AFTER[name])
                maps.append(x)
        return [*maps, x]
