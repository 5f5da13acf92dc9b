"""torchvision's `resnet50` under its parameter names.

Written without torchvision: He et al. 2016, Table 1 (50-layer), stride on the 3x3 convolution.
"""

import torch
from torch import nn

UNITS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    def __init__(self, inputs, inner, outer, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.downsample = None
        if stride != 1 or inputs != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet50(nn.Module):
    """[b, 3, h, w], normalised, to the maps of the four stages. `fc` is only for its name.

    `last_stride` is 1 in person retrieval and 2 on ImageNet; no weight depends on it.
    """

    def __init__(self, *, width=1.0, units=UNITS, last_stride=1, classes=1000):
        super().__init__()

        def scale(channels):
            return max(1, round(channels * width))

        self.conv1 = nn.Conv2d(3, scale(64), 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(scale(64))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, strides = scale(64), (1, 2, 2, last_stride)
        for number, (count, stride) in enumerate(zip(units, strides, strict=True)):
            inner, outer = scale(64 * 2**number), scale(256 * 2**number)
            stage = []
            for i in range(count):
                stage.append(Bottleneck(inputs, inner, outer, stride if i == 0 else 1))
                inputs = outer
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        maps = []
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
            maps.append(x)
        return maps
