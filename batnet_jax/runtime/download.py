"""Fetch a file whose checksum is known, as a whole or not at all.

pooch fetches into a temporary file beside the target, compares the checksum, and renames.
"""

import hashlib
import sys
from pathlib import Path

from batnet_jax.errors import RunFailure, UserError, one_line
from batnet_jax.runtime.extras import import_extra
from batnet_jax.runtime.paths import exists, is_folder

TIMEOUT = 30  # seconds without a byte
_BLOCK = 1 << 20


def fetch(url: str, sha256: str, path: Path, *, user: str) -> bool:
    """Fetch a file, unless the path has it already.

    Args:
      url: http:// or https://.
      sha256: of the bytes, hexadecimal.
      path: of the file; missing folders are made.
      user: the argument that wants the file, for messages.
    Returns: False if the path had the file already.

    Raises:
      UserError: if the path has another file, or pooch is not installed.
      RunFailure: if the file cannot be fetched whole. Nothing is left at `path` then.
    """
    if exists(path):
        if not is_folder(path) and digest(path) == sha256:
            return False
        raise UserError(
            f"'{path}' already exists, and is not the file of {url}: move it, or use --to"
        )
    pooch = import_extra("pooch", name="pooch", extra="weights", user=user)
    import requests  # a requirement of pooch

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=_BLOCK, timeout=TIMEOUT
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            url, f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=downloader
        )
    except ValueError as error:
        if isinstance(error, requests.RequestException):
            raise RunFailure(_unreachable(url, error)) from error
        raise RunFailure(
            f"{url} sent other bytes than published (SHA-256 differs), which were removed: try "
            "again, or fetch the file by hand"
        ) from error
    except requests.RequestException as error:
        raise RunFailure(_unreachable(url, error)) from error
    except OSError as error:
        raise RunFailure(f"'{path}' cannot be written ({one_line(error)})") from error
    return True


def _unreachable(url: str, error: Exception) -> str:
    """Return the line about a server that does not answer or stops in the middle."""
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        why = f"the server answers {response.status_code}"
    elif isinstance(error, requests.Timeout):
        why = f"no answer in {TIMEOUT} s"
    elif isinstance(error, requests.exceptions.ChunkedEncodingError):
        why = "it ended too early"
    else:
        why = "no connection: is this machine online?"
    return f"{url} cannot be fetched, and nothing was kept: {why}"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
