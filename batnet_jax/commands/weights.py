"""The command `batnet weights`: lists published weights that can be read, and fetches files."""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from batnet_jax.commands.known_weights import FAMILIES, FILES, Family, File
from batnet_jax.errors import UserError

FAMILY_COLUMNS = (
    "family", "a tensor that shows it", "`model.backbone`", "images", "pixels", "published at",
    "terms",
)  # fmt: skip
FILE_COLUMNS = ("name", "network, trained on", "terms", "address")


def list_weights() -> str:
    """Return the lists of readable families and of files to fetch, for the terminal."""
    lines = ["Read by their names, from .pth, .pth.tar or .safetensors:", ""]
    for own in FAMILIES:
        name, tensor, backbones, images, pixels, page, terms = family_row(own)
        lines += [
            name,
            f"    shown by {tensor}; --config.model.backbone {backbones}",
            f"    taken: images of {images}, pixels by {pixels}",
            f"    {page} ({terms})",
        ]
    lines += [
        "",
        "Fetched by batnet weights get NAME; all others by hand, from the pages above:",
        "",
    ]
    width = max(len(own.name) for own in FILES)
    lines += [f"{own.name:{width}}  {own.about} ({own.terms})" for own in FILES]
    return "\n".join(lines)


def family_row(own: Family) -> tuple[str, ...]:
    """Return the cells of a family, in the order of `FAMILY_COLUMNS`."""
    images = " x ".join(map(str, own.images))
    backbones = ", ".join(own.backbones)
    return own.name, own.known_by, backbones, images, own.pixels, own.page, own.terms


def file_row(own: File) -> tuple[str, ...]:
    """Return the cells of a file, in the order of `FILE_COLUMNS`."""
    return own.name, own.about, own.terms, own.url


def markdown() -> tuple[str, str]:
    """Return the tables of families and of files for docs/weights.md."""
    families = [_code(family_row(own), (1, 2)) for own in FAMILIES]
    files = [_code(file_row(own), (0,)) for own in FILES]
    return _table(FAMILY_COLUMNS, families), _table(FILE_COLUMNS, files)


def _code(row: tuple[str, ...], places: Sequence[int]) -> list[str]:
    """Return a row whose cells at `places` are set as code."""
    return [f"`{cell}`" if n in places else cell for n, cell in enumerate(row)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(line) for line in (columns, *rows)]
    rule = f"|{'---|' * len(columns)}"
    return "\n".join([f"| {lines[0]} |", rule, *(f"| {line} |" for line in lines[1:])])


def get(name: str | None, folder: str) -> str:
    """Fetch a file of `FILES` into a folder.

    Returns: a line that says where the file is.

    Raises:
      UserError: for an unknown name, or if the path holds another file.
      RunFailure: if the file cannot be fetched whole.
    """
    names = [own.name for own in FILES]
    if name not in names:
        close = difflib.get_close_matches(name or "", names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(names)}"
        given = "needs a NAME" if name is None else f"does not know {name!r}"
        raise UserError(
            f"batnet weights get {given}: {hint}; batnet weights lists the pages of all others"
        )
    if "://" in folder:
        raise UserError(f"--to={folder} is not a folder of this machine: name one")
    from batnet_jax.runtime.download import fetch

    own = FILES[names.index(name)]
    print(f"fetching {own.url}", file=sys.stderr)
    path = Path(folder) / own.filename
    fetched = fetch(own.url, own.sha256, path, user="batnet weights get")
    done = "fetched" if fetched else "was there already"
    return f"'{path}' {done}, SHA-256 as published. {own.about}; terms: {own.terms}"
