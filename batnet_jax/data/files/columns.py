"""The usual names of columns of features and labels, and the texts that stand for no value."""

import re
from collections.abc import Iterable, Sequence

FEATURES = ("features", "feature", "feats", "feat", "f", "embeddings", "embedding", "x")
PIDS = (
    "pids", "pid", "labels", "label", "identities", "identity", "ids", "id", "persons", "person",
    "personids", "personid", "identityids", "identityid", "names", "name", "targets", "target", "y",
)  # fmt: skip
CAMERAS = (
    "cameras", "camera", "camids", "camid", "cameraids", "cameraid", "cams", "cam", "camnames",
    "camname", "cameranames", "cameranumber", "camerano",
)  # fmt: skip
PATHS = (
    "paths", "path", "filenames", "filename", "files", "file", "images", "image", "filepaths",
    "filepath", "imagepaths", "imagepath", "imgpaths", "imgpath", "imagefile",
)  # fmt: skip
MISSING = ("", "nan", "none", "null")
"""Texts that stand for a missing value, in lower case."""

_WHOLE = re.compile(r"-?[0-9]+(?:\.0*)?")


def cut_fractions(texts: Sequence[str]) -> list[str]:
    """Return texts such as 1.0 without the fraction, if all are whole numbers or missing.

    Tables have such texts where a missing value has turned a column of integers into floats.
    """
    if all(_WHOLE.fullmatch(text) or text.lower() in MISSING for text in texts):
        return [text.partition(".")[0] for text in texts]
    return list(texts)


def plain(name: str) -> str:
    """Return a column's name in lower case, without punctuation and spaces."""
    return re.sub(r"[-_ .]", "", name.lower())


def find_name(wanted: Sequence[str], names: Iterable[str]) -> str | None:
    """Return the column name that comes first in `wanted`; None = no column has a wanted name.

    Args:
      wanted: plain names, the best first.
      names: as the user spells them.
    """
    spelled = {plain(name): name for name in names}
    return next((spelled[name] for name in wanted if name in spelled), None)
