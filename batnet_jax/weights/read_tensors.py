"""Read tensors from .pth and .safetensors files, without running code from them."""

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
import safetensors

from batnet_jax.errors import UserError, first_line
from batnet_jax.runtime.paths import is_file

SAFETENSORS = ".safetensors"
MIN_TORCH = (2, 6)  # older versions run code despite weights_only (CVE-2025-32434)
# What a pickle may name, in order to call it. Published checkpoints have the arguments of their
# program and NumPy's scalars beside tensors; `_Inert` replaces these.
REPLACED_CALLS = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
# The calls of `torch.save` for tensors. PyTorch's own list has more, such as bytearray(10**12).
TENSOR_CALLS = (
    *("collections.OrderedDict", "_codecs.encode"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
    *("torch._utils._rebuild_parameter", "torch.Size", "torch.device"),
)
STORAGE_CALLS = re.compile(
    r"torch\.((cuda\.)?(Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|b?float\d+|u?int\d+)"
)
LEGACY_PICKLES = 5
"""Pickles in a file of PyTorch before 1.6: magic number, protocol, system, content, keys."""
MAX_EXPANSION = 2
"""Limit of the bytes of all tensors over the bytes of their file; tensors may share bytes."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher")
"""Keys of a file under which its state dict lies; DINO's and PersonViT's training has a teacher."""
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class _Inert:
    """A replacement for an object of `REPLACED_CALLS`: takes any arguments and does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict, by the file's own names and in its own types.

    Args:
      path: a .safetensors file, or a file of `torch.save` (any other name) with a state dict, or
        with a dict that has a state dict under one of `WRAPPERS`.

    Raises: UserError if the file does not exist, is damaged, has no state dict, or would have to
      run code; or if PyTorch is needed and not installed.
    """
    if not is_file(path):
        raise UserError(f"'{path}' is not a file: name a .pth, .pth.tar or .safetensors file")
    return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    tensors = {}
    try:
        entries = dict(safetensors.deserialize(path.read_bytes()))
        for name, entry in sorted(entries.items()):  # unsorted, the order is random
            values = np.frombuffer(entry["data"], np.dtype(DTYPES[entry["dtype"]]))
            tensors[name] = values.reshape(entry["shape"])
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"'{path}' is not a readable .safetensors file ({first_line(error)})"
        ) from error
    except KeyError as error:
        raise UserError(f"'{path}' holds tensors of type {error}: convert them to F32") from error
    return tensors


def import_torch(why: str) -> Any:
    """Import PyTorch, an optional dependency.

    Args:
      why: the purpose, at the beginning of the message.

    Raises: UserError if PyTorch is missing or older than `MIN_TORCH`.
    """
    wanted = ".".join(map(str, MIN_TORCH))
    advice = f"pip install 'torch>={wanted}', or give a .safetensors"
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{why} needs PyTorch: {advice}") from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MIN_TORCH:
        raise UserError(f"{why} safely needs PyTorch {wanted}, not {torch.__version__}: {advice}")
    return torch


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = import_torch("reading .pth")
    _check_torch(path)
    inert: list[Any] = [(_Inert, name) for name in REPLACED_CALLS]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
            # PyTorch warns of `encoding`, which the byte strings of Python 2 need.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' is damaged, or holds objects that run code when they are read; refused "
            f"({first_line(error)}): save its state dict alone, or as .safetensors"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"'{path}' is not a readable PyTorch file ({first_line(error)})") from error
    state = _find_state_dict(torch, content)
    if state is None:
        raise UserError(
            f"'{path}' holds no state dict, neither by itself nor under {', '.join(WRAPPERS)}: "
            "save model.state_dict()"
        )
    declared = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if declared > MAX_EXPANSION * path.stat().st_size:  # strides of 0 repeat one number
        raise UserError(
            f"'{path}' has tensors of {declared:,} bytes, more than {MAX_EXPANSION} times its own "
            "size: save contiguous tensors"
        )
    try:
        return {name: _to_numpy(torch, tensor) for name, tensor in state.items()}
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"'{path}' holds a tensor that cannot be read ({first_line(error)}): save it as float32"
        ) from error


def _check_torch(path: Path) -> None:
    """Check that loading a file would call only what tensors need; call and unpack nothing.

    Raises: UserError if PyTorch would call or unpack more.
    """
    advice = "save its state dict alone, or as .safetensors"
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    members = archive.infolist()
                    size = sum(member.file_size for member in members)
                    packed = any(member.compress_type for member in members)
                    if packed or size > path.stat().st_size:
                        raise UserError(
                            f"'{path}' is compressed, as no file of torch.save is: {advice}"
                        )
                    pickles = [m for m in members if m.filename.endswith(".pkl")]
                    calls = {name for m in pickles for name in _calls(archive.read(m))}
            else:
                file.seek(0)
                calls = set()
                for _ in range(LEGACY_PICKLES):
                    calls |= _calls(file)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"'{path}' is not a readable PyTorch file ({first_line(error)})") from error
    strange = sorted(
        name
        for name in calls
        if name not in (*TENSOR_CALLS, *REPLACED_CALLS) and not STORAGE_CALLS.fullmatch(name)
    )
    if strange:
        raise UserError(
            f"'{path}' is damaged, or holds objects that run code when they are read; refused "
            f"({', '.join(strange[:3])}): {advice}"
        )


def _calls(pickled: bytes | BinaryIO) -> set[str]:
    """Return the names of everything that a pickle would call."""
    names = set()
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace(" ", "."))
        elif opcode.name.startswith(("STACK_GLOBAL", "EXT")):
            names.add(f"unknown, by {opcode.name}")
    return names


def _find_state_dict(torch: Any, content: Any) -> Mapping[str, Any] | None:
    """Return the state dict in a file's content: itself, or under one of `WRAPPERS`; or None."""
    if not isinstance(content, Mapping):
        return None
    for candidate in (content, *(content.get(key) for key in WRAPPERS)):
        if isinstance(candidate, Mapping) and candidate:
            tensors = (torch.is_tensor(value) for value in candidate.values())
            if all(tensors) and all(isinstance(name, str) for name in candidate):
                return candidate
    return None


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()
