"""Follows the files of a gallery: a replaced file is opened again.

The same holds for a folder of shards with a new manifest, and for a database after a load. Requests
that have begun keep the gallery that they began with. If a new file cannot be used, it is named,
and the old gallery stays.
"""

import math
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from batnet_jax.errors import UserError, one_line, printable
from batnet_jax.inference.lance_gallery import is_lance, is_remote, whole_version
from batnet_jax.inference.search import Searcher
from batnet_jax.inference.shards import MANIFEST
from batnet_jax.runtime.paths import is_folder

SECONDS = 1.0
"""Seconds between two looks at the files."""
BUCKET_SECONDS = 30.0
"""Seconds between two looks at a database in a bucket, where each look costs money."""


class Following:
    """A searcher that is replaced when its files are.

    Attributes:
      current: the searcher of requests that begin now.
      problem: why the newest files cannot be used; None if they are in use.
      changes: how often the gallery has been replaced.
    """

    def __init__(self, searcher: Searcher):
        """Begin with a searcher."""
        self.current = searcher
        self.problem: str | None = None
        self.changes = 0
        self._in_buckets: dict[Path, tuple[float, Any]] = {}
        self._seen = self._facts()
        self._end = threading.Event()

    def start(self) -> None:
        """Look at the files again and again, in a thread that ends with the process."""
        threading.Thread(target=self._look_on, name="gallery", daemon=True).start()

    def stop(self) -> None:
        """Stop looking at the files."""
        self._end.set()

    def look(self) -> None:
        """Open the gallery again if its files have changed; keep the old one if that fails."""
        facts = self._facts()
        if facts == self._seen:
            return
        self._seen = facts
        try:
            new = self.current.reopened()
            _search_all(new)
        except (UserError, MemoryError) as error:
            self.problem = printable(str(error)) or "there is too little memory"
            line = f"warning: the gallery has changed, and the old one is kept: {self.problem}"
            print(line, file=sys.stderr)
            return
        if self._facts() != facts:
            self._seen = None  # the files changed while they were read
            return
        self.current, self.problem = new, None
        self.changes += 1
        count = len(new.gallery.features)
        print(f"the gallery has changed: {count} images from now on", file=sys.stderr)

    def _look_on(self) -> None:
        while not self._end.wait(SECONDS):
            try:
                self.look()
            except Exception as error:  # a bug; the server continues with the old gallery
                traceback.print_exc()
                self.problem = one_line(error)

    def _facts(self) -> list | None:
        """Return facts about the gallery's files that change when a file is replaced."""
        sources = zip(self.current.sources, self.current.kept, strict=True)
        return [self._facts_of(source) for source, is_kept in sources if is_kept]

    def _facts_of(self, source: Path) -> Any:
        """Return the facts of a file, of the manifest of a folder, or of a database."""
        if is_lance(source):
            return self._version_of(source)
        try:
            found = os.stat(source / MANIFEST if is_folder(source) else source)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _version_of(self, source: Path) -> Any:
        """Return the version of a database; in a bucket, the version of the last look."""
        if not is_remote(source):
            return whole_version(source)
        now = time.monotonic()
        when, version = self._in_buckets.get(source, (-math.inf, None))
        if now - when >= BUCKET_SECONDS:
            version = whole_version(source)
            self._in_buckets[source] = now, version
        return version


def _search_all(searcher: Searcher) -> None:
    """Search once: this compiles what is needed, and reads and checks the whole file.

    Raises: UserError if the features are damaged or are not finite numbers.
    """
    gallery, _ = searcher.gallery.features, searcher.common_folder
    if len(gallery):
        searcher.search_features(np.ones((1, gallery.shape[1]), np.float32), 10)
