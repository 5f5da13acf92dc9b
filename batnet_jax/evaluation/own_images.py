"""Finds images that are both in the query set and in the gallery of a test, by equal files."""

import hashlib
import sys

import numpy as np

from batnet_jax.data import Split
from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.errors import printable
from batnet_jax.retrieval import ImageSet, ItemLists, check_left_out, find_same_images


def find_own_images(test: RetrievalTest) -> ItemLists:
    """Return the gallery items whose file equals the query's, byte by byte, for each query."""
    query, gallery = _digests(test.query), _digests(test.gallery)
    lists = check_left_out(len(query), len(gallery), query_ids=query, gallery_ids=gallery)
    assert lists is not None
    return lists


def _digests(split: Split) -> np.ndarray:
    """Return a digest of each image's file, [n] strings."""
    files = (split.encoded(i) for i in range(len(split)))
    return np.array([hashlib.blake2b(file, digest_size=16).hexdigest() for file in files])


def warn_of_own_images(
    test: RetrievalTest, query: ImageSet, gallery: ImageSet, same_camera: str
) -> None:
    """Warn on stderr if queries find their own images in the gallery.

    Only pairs of equal features are compared file by file, so the gallery is not read again.

    Args:
      test: the test that was evaluated.
      query: the features of its queries.
      gallery: the features of its gallery.
      same_camera: see `retrieval.evaluate`.
    """
    pairs = find_same_images(query, gallery, None, same_camera).T.tolist()
    same = [(q, g) for q, g in pairs if test.query.encoded(q) == test.gallery.encoded(g)]
    if same:
        q, g = same[0]
        line = (
            f"warning: {test.name}: {len({q for q, _ in same})} of {len(query)} queries are in the"
            f" gallery themselves, for example '{test.query.filenames[q]}' as"
            f" '{test.gallery.filenames[g]}', and find themselves: the figures are too high;"
            " eval.leave_out_own=True leaves each query's own image out"
        )
        print(printable(line), file=sys.stderr)
