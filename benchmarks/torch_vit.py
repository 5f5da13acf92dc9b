"""The vision transformer under the parameter names of timm, of DINOv2 and of TransReID.

Written without them, from Dosovitskiy et al. 2021 (section 3.1), Touvron et al. 2021 (LayerScale),
Darcet et al. 2024 (registers) and He et al. 2021 (TransReID: overlapping patches). `vit.py` races
it, and the tests compare it with ours.
"""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x):
        b, t, c = x.shape
        parts = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(*parts)
        return self.proj(y.transpose(1, 2).reshape(b, t, c))


class Scale(nn.Module):
    """LayerScale: a factor for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return self.gamma * x


class Mlp(nn.Module):
    """The two dense layers of a block, with a GELU between them."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Layer(nn.Module):
    """A block: attention, then the dense layers, each beside a shortcut."""

    def __init__(self, channels, heads, layer_scale):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels)
        self.ls1, self.ls2 = (Scale(channels) if layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class TorchViT(nn.Module):
    """[b, 3, h, w], prepared, to all normalised tokens [b, 1 + registers + patches, c].

    `grid` is the rows and columns of the patches. The class token has a position, unless there are
    registers (timm).
    """

    def __init__(
        self, *, channels, heads, grid, depth=12, patch=16, stride=16, layer_scale=False,
        registers=0,
    ):  # fmt: skip
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, channels, patch, stride)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels))
        own = 0 if registers else 1
        self.pos_embed = nn.Parameter(torch.randn(1, own + grid[0] * grid[1], channels))
        if registers:
            self.reg_token = nn.Parameter(torch.randn(1, registers, channels))
        self.registers = registers
        self.blocks = nn.Sequential(*(Layer(channels, heads, layer_scale) for _ in range(depth)))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, 7)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(x), -1, -1)
        if self.registers:
            beside = self.reg_token.expand(len(x), -1, -1)
            x = torch.cat([first, beside, x + self.pos_embed], 1)
        else:
            x = torch.cat([first, x], 1) + self.pos_embed
        return self.norm(self.blocks(x))


def randomise(network, seed=0):
    """Give every parameter a value that matters; the tokens stay of the size of 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith(("cls_token", "pos_embed", "reg_token")):
                value.copy_(0.5 * noise)
            elif value.ndim > 1:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value.copy_((0.0 if name.endswith("bias") else 1.0) + 0.2 * noise)
    return network
