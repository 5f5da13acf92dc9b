"""CLIP's image tower under its own parameter names, and CLIP-ReID around it.

Written from Radford et al. 2021 (section 2.4: a further normalisation before the layers) and from
the names in the state dicts, with PyTorch's own multi-head attention.
"""

import torch
from torch import nn


class QuickGELU(nn.Module):
    def forward(self, x):
        return x / (1 + torch.exp(-1.702 * x))


class Block(nn.Module):
    def __init__(self, channels, heads, activation):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(channels, 4 * channels))
        self.mlp.add_module("gelu", activation())
        self.mlp.add_module("c_proj", nn.Linear(4 * channels, channels))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    """[b, 3, h, w], prepared, to the class token [b, c] and its projection [b, projected]."""

    def __init__(
        self, *, channels, heads, grid, depth=12, patch=16, stride=16, projected=None, quick=True
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, patch, stride, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(channels))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + grid[0] * grid[1], channels))
        self.ln_pre, self.ln_post = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.transformer = nn.Module()
        activation = QuickGELU if quick else nn.GELU
        self.transformer.resblocks = nn.Sequential(
            *(Block(channels, heads, activation) for _ in range(depth))
        )
        self.proj = nn.Parameter(torch.zeros(channels, projected)) if projected else None

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([token, x], 1) + self.positional_embedding)
        x = self.ln_post(self.transformer.resblocks(x))[:, 0]
        return x, None if self.proj is None else x @ self.proj


def randomise(network, seed=0):
    """Give every parameter a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "embedding" in name:
                value.copy_(0.5 * noise)
            elif value.ndim > 1:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value.copy_((0.0 if name.endswith("bias") else 1.0) + 0.2 * noise)
    return network
