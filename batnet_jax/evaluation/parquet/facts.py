"""The facts about a gallery in the metadata of a Parquet file that `embed` wrote.

The metadata `batnet_jax` is JSON: the fingerprint of the model, the shape, a digest of the paths
and of each column, and the CRC-32 of the features of each row group. The metadata
`batnet_jax.fingerprint` belongs to the table, so a table of pyarrow hands it on to another file.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

KEY = b"batnet_jax"
FINGERPRINT_KEY = b"batnet_jax.fingerprint"
_VERSION = 1


class Facts(NamedTuple):
    """The facts in a file's metadata."""

    fingerprint: str | None
    """Of the model."""
    rows: int
    dim: int
    names: str
    """Of the paths, see `Digest`."""
    columns: dict[str, str]
    """Of the other columns, see `Digest`."""
    sums: list[int]
    """The CRC-32 of the features of each row group."""
    shard: dict[str, Any]
    """The list and the number of the shard; empty for a whole gallery."""


class Digest:
    """Computes a digest of texts or numbers, 32 hexadecimal digits."""

    def __init__(self) -> None:
        """Begin with none."""
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, values: Sequence[str] | np.ndarray) -> None:
        """Add texts, each followed by a null byte, or an array, whose strings are texts."""
        if isinstance(values, np.ndarray) and values.dtype.kind != "U":
            self._digest.update(np.ascontiguousarray(values).tobytes())
            return
        text = "".join(f"{one}\0" for one in values)
        self._digest.update(text.encode(errors="surrogatepass"))

    def text(self) -> str:
        """Return the digest of everything added so far."""
        return self._digest.hexdigest()


def digest_of(paths: Iterable[str]) -> str:
    """Return the digest of all paths."""
    digest = Digest()
    part: list[str] = []
    for path in paths:
        part.append(path)
        if len(part) == 10_000:
            digest.add(part)
            part.clear()
    digest.add(part)
    return digest.text()


def to_text(facts: Facts) -> str:
    """Return the facts as JSON."""
    return json.dumps({"version": _VERSION, **facts._asdict()})


def read_facts(metadata: dict[bytes, bytes] | None) -> Facts | None:
    """Return the facts in the metadata of a sealed file; None for metadata without facts.

    Raises: ValueError if they are of a later version.
    """
    found = (metadata or {}).get(KEY)
    if found is None:
        return None
    facts = json.loads(found)
    if facts.pop("version") != _VERSION:
        raise ValueError("a later version of this package wrote it")
    return Facts(**facts)


def given_fingerprint(metadata: dict[bytes, bytes] | None) -> str | None:
    """Return the fingerprint that a rewritten file still has; None if it has none."""
    found = (metadata or {}).get(FINGERPRINT_KEY, b"").decode("ascii", "replace")
    return found if found.isalnum() and len(found) == 32 else None
