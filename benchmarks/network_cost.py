"""Counts the operations that BAT-net needs, from its table of widths: the floor of a step."""

# 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection
TABLE = {
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


def training_flops(
    *,
    size: tuple[int, int] = (256, 128),
    width: float = 1.0,
    reduction: int = 4,
    parts: int = 4,
    embedding: int = 512,
    identities: int = 751,
) -> float:
    """Return the floating-point operations of a training step for each image.

    A multiplication with its addition counts as 2. Convolutions, dense layers and the products of a
    Bi-attention at position p2 are counted: once forward, and twice for the two gradients. The
    first convolution needs no gradient by its input. Normalisation, ReLU, pooling, augmentation,
    losses and Adam are not counted.
    """

    def scaled(channels):
        return max(1, round(channels * width))

    def conv(inputs, outputs, kernel, pixels):
        return 2 * kernel**2 * inputs * outputs * pixels

    def inceptions(names, inputs, pixels):
        total = 0
        for name in names:
            one, reduce3, three, reduce5, five, pool = map(scaled, TABLE[name])
            total += conv(inputs, one + reduce3 + reduce5 + pool, 1, pixels)
            total += conv(reduce3, three, 3, pixels) + conv(reduce5, five, 5, pixels)
            inputs = one + three + five + pool
        return total, inputs

    height, breadth = size
    pixels = height * breadth
    first = conv(3, scaled(64), 7, pixels // 4)
    trunk = conv(scaled(64), scaled(64), 1, pixels // 16)
    trunk += conv(scaled(64), scaled(192), 3, pixels // 16)
    blk2, channels = inceptions(["3a", "3b"], scaled(192), pixels // 64)
    blk3, middle = inceptions(["4a", "4b", "4c", "4d", "4e"], channels, pixels // 256)
    blk4, last = inceptions(["5a", "5b"], middle, pixels // 1024)
    c = max(1, channels // reduction)
    pairs = c * (c + 1) // 2
    attention = conv(channels, c, 1, pixels // 256) + conv(pairs, channels, 1, pixels // 256)
    attention += (pairs + 2 * c**2) * pixels // 256 + conv(pairs, channels, 1, 1)
    heads = conv((1 + parts) * last, embedding, 1, 1) + 2 * conv(embedding, identities, 1, 1)
    return 2 * first + 3 * (trunk + blk2 + (1 + parts) * (blk3 + blk4) + attention + heads)
