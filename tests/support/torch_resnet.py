"""ResNet-50 under the parameter names of torchvision, of IBN-Net and of FastReID.

Written without them: He et al. 2016, Table 1 (50-layer), stride on the 3x3 convolution; Pan et al.
2018, Fig. 3(b); Wang et al. 2018, Fig. 2, without a softmax and with one channel inside.
"""

import torch
from torch import nn

UNITS = (3, 4, 6, 3)


class HalfInstanceNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, x):
        half = self.IN.num_features
        return torch.cat([self.IN(x[:, :half]), self.BN(x[:, half:])], 1)


class NonLocal(nn.Module):
    """Every pixel's products with all pixels weigh the sum, as the paper draws it."""

    def __init__(self, channels):
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, 1, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        query, key, value = (conv(x).flatten(2) for conv in (self.theta, self.phi, self.g))
        weights = torch.einsum("bci,bcj->bij", query, key) / query.shape[2]
        total = torch.einsum("bij,bcj->bci", weights, value)
        return x + self.W(total.view(len(x), 1, *x.shape[2:]))


class Bottleneck(nn.Module):
    def __init__(self, inputs, inner, outer, stride, ibn=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = HalfInstanceNorm(inner) if ibn else nn.BatchNorm2d(inner)
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

    `last_stride` is 1 in person retrieval and 2 on ImageNet; no weight depends on it. `non_locals`
    are the blocks of each stage, behind its last bottlenecks.
    """

    def __init__(
        self, *, width=1.0, units=UNITS, last_stride=1, classes=1000, ibn=False, non_locals=()
    ):
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
                stage.append(
                    Bottleneck(inputs, inner, outer, stride if i == 0 else 1, ibn and number < 3)
                )
                inputs = outer
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
            own = non_locals[number] if non_locals else 0
            if own:
                self.add_module(
                    f"NL_{number + 1}", nn.ModuleList(NonLocal(outer) for _ in range(own))
                )
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        maps = []
        for number in range(1, 5):
            stage = getattr(self, f"layer{number}")
            blocks = getattr(self, f"NL_{number}", [])
            for i, unit in enumerate(stage):
                x = unit(x)
                if i >= len(stage) - len(blocks):
                    x = blocks[i - len(stage) + len(blocks)](x)
            maps.append(x)
        return maps


class GeM(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 2.5))

    def forward(self, x):
        return (x.clamp(min=1e-6) ** self.p).mean((2, 3), keepdim=True) ** (1 / self.p)


class TorchFastReID(nn.Module):
    """[b, 3, h, w] pixels of 0 to 255 to the feature behind the neck, under FastReID's names."""

    def __init__(self, *, gem, classes=7, **backbone):
        super().__init__()
        self.backbone = TorchResNet50(**backbone)
        outputs = self.backbone.fc.in_features
        del self.backbone.fc
        self.backbone.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.heads = nn.Module()
        self.heads.pool_layer = GeM() if gem else nn.AdaptiveAvgPool2d(1)
        self.heads.bottleneck = nn.Sequential(nn.BatchNorm2d(outputs))
        self.heads.weight = nn.Parameter(torch.randn(classes, outputs))
        for name, values in (
            ("pixel_mean", (123.675, 116.28, 103.53)), ("pixel_std", (58.395, 57.12, 57.375))
        ):  # fmt: skip
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, pixels):
        x = self.backbone((pixels - self.pixel_mean) / self.pixel_std)[-1]
        return self.heads.bottleneck(self.heads.pool_layer(x)).flatten(1)
