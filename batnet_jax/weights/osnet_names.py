"""The names of OSNet's modules in its authors' weights (Torchreid), as tables."""

_STREAMS = {"stream1": "a", "stream2": "b", "stream3": "c", "stream4": "d"}
_LIGHT = {"pointwise": "conv1", "depthwise": "conv2", "bn": "bn"}
_HEAD = {"embedding": "fc.0", "bn": "fc.1", "classifier": "classifier"}


def osnet_module(module: tuple[str, ...], *, listed: bool) -> str | None:
    """Return the name of a module; None if the authors' network does not have it.

    Args:
      module: a variable's path without its kind and its leaf, as in ("blk2", "unit0", "gate",
        "fc1").
      listed: the layout of osnet_ain, whose streams are a list; False: of the others.
    """
    match module:
        case "blk1", "conv1", *layer:
            return f"conv1.{layer[0] if layer else 'conv'}"
        case "blk1", "instance_norm":
            return "conv1.bn"
        case "blk4", "transition", layer:
            return f"conv5.{layer}"
        case ("blk2" | "blk3") as block, "transition", layer:
            number = block.removeprefix("blk")
            return f"pool{number}.0.{layer}" if listed else f"conv{number}.2.0.{layer}"
        case ("blk2" | "blk3" | "blk4") as block, unit, *layers:
            place = f"conv{block.removeprefix('blk')}.{unit.removeprefix('unit')}"
            return f"{place}.{_block_module(layers, listed)}"
        case "appearance_head", layer:
            return _HEAD.get(layer)
    return None


def _block_module(layers: list[str], listed: bool) -> str:
    """Return the name of a module within an omni-scale block."""
    match layers:
        case ["instance_norm"]:
            return "IN"
        case ["conv3"]:  # without BN, where instance normalisation follows
            return "conv3.conv"
        case first, layer if "_light" in first:
            stream, number = first.split("_light")
            if listed:
                place = f"conv2.{int(stream.removeprefix('stream')) - 1}.layers.{number}"
            else:
                place = f"conv2{_STREAMS[stream]}"
                place += "" if stream == "stream1" else f".{number}"
            return f"{place}.{_LIGHT[layer]}"
    return ".".join(layers)
