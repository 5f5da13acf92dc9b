"""The section of the data as they were read: images of some identities, for the eye to check."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from batnet_jax.report.cards import PageImage, zoom
from batnet_jax.report.page import Markup, Section, escape, paragraph, table


class SheetRow(NamedTuple):
    """Some images of an identity."""

    images: Sequence[PageImage]
    """At least one; queries first."""
    num_images: int
    """All images of the identity in the test."""


def sheet_section(
    rows: Sequence[SheetRow],
    counts: Mapping[str, Sequence[str]],
    *,
    input_size: tuple[int, int],
    num_identities: int,
    key: str,
    title: str,
) -> Section:
    """Make the section of the data.

    Args:
      rows: at least one.
      counts: images, identities, cameras and size of each split, as text.
      input_size: height and width to which the network's input is resized.
      num_identities: all identities of the test.
      key: the section's.
      title: the section's.
    """
    text = (
        f"{len(rows):,} of {num_identities:,} identities, as they were read from the files: the "
        "images of a row must show one identity. The network sees each image resized to "
        f"{input_size[0]} x {input_size[1]} pixels (height x width)."
    )
    head = ["split", "images", "identities", "cameras", "median size"]
    numbers = table("The test", head, [[name, *own] for name, own in counts.items()])
    sheets = "\n".join(map(_row, rows))
    body = f'{paragraph(text)}\n<div class="sheet">\n{sheets}\n</div>\n{numbers}'
    return Section(key, title, body)


def _row(row: SheetRow) -> str:
    who = row.images[0].who
    items = "".join(_image(image) for image in row.images)
    more = row.num_images - len(row.images)
    note = f" and {more:,} more" if more else ""
    head = f"{escape(who)} <span>({row.num_images:,} images)</span>"
    return (
        f'<div class="panel" data-zooms="Identity {escape(who)}"><h3>{head}</h3>'
        f'<ol>{items}</ol><p class="note">{note}</p></div>'
    )


def _image(image: PageImage) -> Markup:
    camera = "" if image.camera is None else f"camera {image.camera}"
    short = "" if image.camera is None else f"c{image.camera}"
    return Markup(f"<li>{zoom(image, camera or 'image', 'Image')}{short}</li>")
