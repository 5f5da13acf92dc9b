"""Tensors out of .pth and .safetensors files, without running what they hold."""

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

from batnet_jax.errors import UserError

SAFETENSORS = ".safetensors"
MIN_TORCH = (2, 6)  # before, weights_only could be made to run code (CVE-2025-32434)
# What a published checkpoint holds beside tensors: its arguments and NumPy's scalars.
HARMLESS = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
# What `torch.save` calls for tensors. PyTorch's own list has more, as bytearray(10**12).
PLAIN = (
    *("collections.OrderedDict", "_codecs.encode"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
    *("torch._utils._rebuild_parameter", "torch.Size", "torch.device"),
)
STORAGE = re.compile(
    r"torch\.((cuda\.)?(Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|b?float\d+|u?int\d+)"
)
LEGACY_PICKLES = 5
"""In a file of before PyTorch 1.6: magic number, protocol, system, content, keys."""
DECLARED = 2
"""Times the bytes of its file that tensors may take; they may share theirs."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
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
    """Stands where a file has an object of `HARMLESS`: takes all and does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, by the file's own names and in its own types.

    Args:
      path: a .safetensors file, or one of `torch.save` (any other name): a state dict, or a dict
        with one under `state_dict`.

    Raises: UserError if the file does not exist, is damaged, holds no state dict, or would have to
      run code to be read; or if it takes PyTorch and there is none.
    """
    if not path.is_file():
        raise UserError(f"'{path}' is not a file: name a .pth, .pth.tar or .safetensors file")
    return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    tensors = {}
    try:
        entries = dict(safetensors.deserialize(path.read_bytes()))
        for name, entry in sorted(entries.items()):  # else of a random order
            values = np.frombuffer(entry["data"], np.dtype(DTYPES[entry["dtype"]]))
            tensors[name] = values.reshape(entry["shape"])
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"'{path}' is not a readable .safetensors file ({_line(error)})") from error
    except KeyError as error:
        raise UserError(f"'{path}' holds tensors of type {error}: convert them to F32") from error
    return tensors


def import_torch(why: str) -> Any:
    """PyTorch, which only this needs.

    Args:
      why: what it is wanted for, the message's beginning.

    Raises: UserError if it is missing or older than `MIN_TORCH`.
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
    inert: list[Any] = [(_Inert, name) for name in HARMLESS]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
            # It warns of `encoding`, without which Python 2's byte strings cannot be read.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' is damaged, or holds objects that run code when they are read; refused "
            f"({_line(error)}): save its state dict alone, or as .safetensors"
        ) from error
    except Exception as error:  # a damaged file raises whatever it comes to
        raise UserError(f"'{path}' is not a readable PyTorch file ({_line(error)})") from error
    state = _find_state_dict(torch, content)
    if state is None:
        raise UserError(
            f"'{path}' holds no state dict, neither by itself nor under {', '.join(WRAPPERS)}: "
            "save model.state_dict()"
        )
    declared = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if declared > DECLARED * path.stat().st_size:  # one number may be seen as a matrix of any size
        raise UserError(
            f"'{path}' has tensors of {declared:,} bytes, more than {DECLARED} times its own size: "
            "save contiguous tensors"
        )
    try:
        return {name: _to_numpy(torch, tensor) for name, tensor in state.items()}
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"'{path}' holds a tensor that cannot be read ({_line(error)}): save it as float32"
        ) from error


def _check_torch(path: Path) -> None:
    """Looks through a file for what PyTorch would call and unpack, without doing any of it.

    Raises: UserError if that is more than tensors take.
    """
    refused = f"'{path}' is damaged, or holds objects that run code when they are read; refused"
    advice = "save its state dict alone, or as .safetensors"
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    members = archive.infolist()
                    size = sum(member.file_size for member in members)
                    packed = any(member.compress_type for member in members)
                    if packed or size > path.stat().st_size:
                        raise UserError(f"'{path}' is packed, as torch.save packs none: {advice}")
                    pickles = [m for m in members if m.filename.endswith(".pkl")]
                    calls = {name for m in pickles for name in _calls(archive.read(m))}
            else:
                file.seek(0)
                calls = set()
                for _ in range(LEGACY_PICKLES):
                    calls |= _calls(file)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file leads these into
        raise UserError(f"'{path}' is not a readable PyTorch file ({_line(error)})") from error
    strange = {n for n in calls if n not in (*PLAIN, *HARMLESS) and not STORAGE.fullmatch(n)}
    if strange:
        raise UserError(f"{refused} ({', '.join(sorted(strange)[:3])}): {advice}")


def _calls(pickled: bytes | BinaryIO) -> set[str]:
    """What a pickle names, to call it."""
    names = set()
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace(" ", "."))
        elif opcode.name.startswith(("STACK_GLOBAL", "EXT")):
            names.add(f"what only {opcode.name} tells")
    return names


def _find_state_dict(torch: Any, content: Any) -> Mapping[str, Any] | None:
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


def _line(error: Exception) -> str:
    """The first line of a message, short."""
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split("\n")[0].split())[:160]
