"""For mkdocs: pages and files of the repository outside docs/ are part of the site.

Links between files are written for readers of the repository (`../launch/README.md`). On the site
the pages below are pages, and any other file that is linked to is copied as it is.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "launch/README.md")
FRONT = "README.md"  # the repository's; on the site it is `about.md`
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def on_files(files: Files, config) -> Files:
    """Adds the pages, and what any page links to outside docs/."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "about.md", abs_src_path=str(ROOT / FRONT)))
    for file in files.documentation_pages():
        for _, target in LINK.findall(file.content_string):
            name = source(file.src_uri, target)
            if name and (ROOT / name).is_file() and files.get_file_from_path(copied(name)) is None:
                content = (ROOT / name).read_bytes()
                files.append(File.generated(config, copied(name), content=content))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Turns links that lead out of docs/ into links on the site."""
    own = page.file.src_uri

    def replace(match: re.Match) -> str:
        name = source(own, match[2])
        if name is None:
            return match[0]
        target = copied(name) if (ROOT / name).is_file() else "about.md"
        return match[1] + os.path.relpath(target, os.path.dirname(own) or ".")

    return LINK.sub(replace, markdown)


def place(uri: str) -> Path:
    """Where a page of the site lies in the repository."""
    if uri == "about.md":
        return ROOT / FRONT
    return ROOT / uri if uri in PAGES else ROOT / "docs" / uri


def source(own: str, target: str) -> str | None:
    """The path in the repository of what a page links to; None for a page or file of docs/."""
    path = Path(os.path.normpath(place(own).parent / target))
    if place(own).is_relative_to(ROOT / "docs") and path.is_relative_to(ROOT / "docs"):
        return None
    return path.relative_to(ROOT).as_posix()


def copied(name: str) -> str:
    """Where a file of the repository lies on the site."""
    if name in PAGES:
        return name
    if name == FRONT:
        return "about.md"
    return name.removeprefix("docs/") if name.startswith("docs/") else f"files/{name}"
