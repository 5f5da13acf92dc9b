"""The gallery that requests search, which follows its files: a replaced file is opened anew.

Requests that have begun end on the gallery that they began with. A new file that cannot be used is
named, and the old gallery stays.
"""

import os
import sys
import threading
import traceback

import numpy as np

from batnet_jax.errors import UserError, one_line, printable
from batnet_jax.inference.feature_file import is_feature_file
from batnet_jax.inference.search import Searcher

SECONDS = 1.0
"""Between two looks at the files."""


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
        self._seen = self._facts()
        self._end = threading.Event()

    def start(self) -> None:
        """Look at the files again and again, in a thread that ends with the process."""
        threading.Thread(target=self._look_on, name="gallery", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._end.set()

    def look(self) -> None:
        """Open the gallery anew if its files are others; keep the old one if that fails."""
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
            except Exception as error:  # our fault; the server goes on with the old gallery
                traceback.print_exc()
                self.problem = one_line(error)

    def _facts(self) -> list | None:
        """Return what tells a replaced file from the old one."""
        facts = []
        for path in filter(is_feature_file, self.current.sources):
            try:
                found = os.stat(path)
                facts.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
            except OSError:
                facts.append(None)
        return facts


def _search_all(searcher: Searcher) -> None:
    """Search once: this compiles what is needed, and reads and checks the whole file.

    Raises: UserError if the features are damaged or are no numbers.
    """
    gallery, _ = searcher.gallery.features, searcher.common_folder
    if len(gallery):
        searcher.search_features(np.ones((1, gallery.shape[1]), np.float32), 10)
