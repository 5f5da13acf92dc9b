"""Puts configs/ into wheels, as batnet_jax/configs; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """`build_py` that also copies configs/, which lies beside the package, not in it."""

    def run(self) -> None:
        """As the base's; an editable install reads configs/ where it is."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "batnet_jax", "configs")
            self.mkpath(str(target))
            for path in sorted(Path("configs").glob("*.py")):
                self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": BuildPy})
