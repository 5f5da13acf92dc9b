"""The fastest way that we found to train BAT-net in PyTorch: the rival of `train_step.py`.

It computes the same function as `torch_batnet.TorchBATNet`, from the same weights. As in our
network, the pairs of channels come from a few cyclic shifts at a time, and are computed again for
the gradient. One matrix samples the parts. Run it in `torch.channels_last`. Three 1x1 convolutions
of an inception share their input; one convolution in their place was not faster, on a CPU at least.
"""

import torch
from torch.nn import functional
from torch_batnet import Attention, Maps, TorchBATNet


def cyclic_order(channels):
    """Where the pairs by cyclic shifts, in their order here, stand in the published Bi()."""
    order = []
    for shift in range(channels // 2 + 1):
        count = channels // 2 if 2 * shift == channels else channels
        for i in range(count):
            low, high = sorted((i, (i + shift) % channels))
            diagonal = high - low
            order.append(diagonal * channels - diagonal * (diagonal - 1) // 2 + low)
    return torch.tensor(order)


def _blocks(channels, size):
    """Shifts, `size` at a time, and the pairs of each; an even number's last is half a shift."""
    full = (channels + 1) // 2
    for start in range(0, full, size):
        shifts = range(start, min(start + size, full))
        pairs = slice(start * channels, shifts.stop * channels)
        yield shifts, channels, pairs
    if channels % 2 == 0:
        half = channels // 2
        yield range(half, half + 1), half, slice(full * channels, full * channels + half)


def _products(twice, shifts, count):
    """The pairs of a block, [pairs, n], of [2 c, n]: a shift is a slice of whole rows."""
    return torch.cat([twice[:count] * twice[s : s + count] for s in shifts])


class QuadraticForms(torch.autograd.Function):
    """Bi(x) @ w.T for x [n, c] and w [features, pairs], pairs in the order of `cyclic_order`."""

    @staticmethod
    def forward(ctx, x, w, size):
        ctx.save_for_backward(x, w)
        ctx.size = size
        twice = torch.cat([x.t(), x.t()])
        y = None
        for shifts, count, pairs in _blocks(x.shape[1], size):
            part = _products(twice, shifts, count).t() @ w[:, pairs].t()
            y = part if y is None else y.add_(part)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        channels = x.shape[1]
        twice = torch.cat([x.t(), x.t()])
        d_twice, d_w = torch.zeros_like(twice), torch.empty_like(w)
        for shifts, count, pairs in _blocks(channels, ctx.size):
            d_w[:, pairs] = dy.t() @ _products(twice, shifts, count).t()
            d_products = w[:, pairs].t() @ dy.t()
            for k, shift in enumerate(shifts):
                d = d_products[k * count : (k + 1) * count]
                d_twice[:count].addcmul_(d, twice[shift : shift + count])
                d_twice[shift : shift + count].addcmul_(d, twice[:count])
        return (d_twice[:channels] + d_twice[channels:]).t(), d_w, None


class FastAttention(Attention):
    """`Attention` without Bi(x); its weights are in the order of `cyclic_order`."""

    SIZE = 4  # shifts at a time

    def __init__(self, channels, reduction, aia):
        super().__init__(channels, reduction, aia)
        c = channels // reduction
        shifts = [(i, (i + s) % c) for s in range((c + 1) // 2) for i in range(c)]
        shifts += [(i, i + c // 2) for i in range(c // 2)] if c % 2 == 0 else []
        self.register_buffer("pairs", torch.tensor(shifts).t(), persistent=False)
        chosen = functional.one_hot(self.pairs, c).transpose(1, 2).float()
        self.register_buffer("chosen", chosen, persistent=False)

    @staticmethod
    def all_at_once(x):
        """On a GPU all pairs, chosen by products: few kernels, and little for torch.compile."""
        return x.device.type != "cpu"

    def forward(self, x):
        y = self.dimReduceLayer1(x).permute(0, 2, 3, 1)
        b, h, w, c = y.shape
        rows = y.reshape(-1, c)
        conv, norm = self.dimReduceLayer2.conv.conv, self.dimReduceLayer2.conv.bn
        weight = conv.weight.flatten(1).to(rows.dtype)
        if self.all_at_once(x):
            first, second = self.chosen.to(rows.dtype)
            z = ((rows @ first) * (rows @ second)) @ weight.t()
        else:
            z = QuadraticForms.apply(rows, weight, self.SIZE)
        z = z.view(b, h, w, -1).permute(0, 3, 1, 2) + conv.bias[:, None, None].to(z.dtype)
        mask = functional.relu(norm(z))
        if hasattr(self, "dimReduceLayer3"):
            maps = rows.view(b, h * w, c)
            gram = maps.transpose(1, 2) @ maps / (h * w)
            means = gram[:, self.pairs[0], self.pairs[1]]
            mask = mask * self.dimReduceLayer3(means[:, :, None, None])
        return x * torch.sigmoid(mask)


class FastMaps(Maps):
    """`Maps` with `FastAttention`, and the parts' sampling as a product with a matrix."""

    attention = FastAttention

    def sample(self, x, part):
        rows = x.shape[2]
        options = {"device": x.device, "dtype": torch.float64}  # whatever x's type is
        along = torch.arange(rows, **options)
        centre = (2 * part + 1) / self.parts - 1
        grid = torch.linspace(-1, 1, rows, **options) / self.parts + centre
        source = (grid + 1) / 2 * (rows - 1)
        matrix = (1 - (source[:, None] - along).abs()).clamp(min=0).to(x.dtype)
        y = torch.einsum("ij,bjwc->biwc", matrix, x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class FastBATNet(TorchBATNet):
    """`TorchBATNet`, faster."""

    maps = FastMaps

    def load_state_dict(self, state, **options):
        """Takes the weights of a `TorchBATNet`."""
        state = dict(state)
        channels = self.features.bilinearatt_global.dimReduceLayer1.conv.conv.out_channels
        for layer in ("dimReduceLayer2", "dimReduceLayer3"):
            name = f"features.bilinearatt_global.{layer}.conv.conv.weight"
            if name in state:
                state[name] = state[name][:, cyclic_order(channels)]
        return super().load_state_dict(state, **options)
