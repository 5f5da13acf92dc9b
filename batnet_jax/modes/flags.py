"""Flags that hold a path, and the flags that several modes share."""

from pathlib import Path

from absl import flags


class _PathParser(flags.ArgumentParser[Path]):
    """Parse a path. An empty argument counts as not given."""

    def parse(self, argument: str) -> Path | None:
        return Path(argument) if argument else None


def define_path(name: str, description: str) -> flags.FlagHolder[Path | None]:
    """Define a flag whose value is a path, or None if it is not given."""
    return flags.DEFINE(_PathParser(), name, None, description)


OUTPUT = define_path("output", "the file to write; for import, the workdir to make")
GALLERY = define_path("gallery", "what embed wrote, a folder or a list")
