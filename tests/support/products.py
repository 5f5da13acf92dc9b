"""The matrix products and convolutions of a lowered program, and the precision they ask for."""

import re

PRODUCT = re.compile(r"stablehlo\.(dot_general|convolution)\b(.*)")
OPERANDS = re.compile(r": \(tensor<([^>]*)>, tensor<([^>]*)>\)")


def products(text):
    """Return (operation, type of the operands, whether it asks for full precision) of each product.

    Args:
      text: StableHLO.
    """
    found = []
    for kind, rest in PRODUCT.findall(text):
        types = {shape.split("x")[-1] for shape in OPERANDS.search(rest).groups()}
        assert len(types) == 1, rest
        found.append((kind, *types, rest.count("HIGHEST") == 2))
    return found


def for_tpu(function, *arguments):
    """Return the products of a function lowered for TPUs; the machine needs none."""
    return products(function.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text())
