"""The section of the identities and camera pairs that are hardest to match, with links to lists."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from batnet_jax.errors import printable
from batnet_jax.report.cards import Card, match_cameras
from batnet_jax.report.page import Cell, Markup, Section, escape, grid, heading, paragraph, table
from batnet_jax.report.sections import percent
from batnet_jax.report.thumbnails import picture


class HardIdentity(NamedTuple):
    """An identity that is hard to find; its figures are fractions."""

    pid: int
    thumbnail: str
    """One of its query images; see `Thumbnails.add`."""
    num_queries: int
    mean_ap: float
    rank1: float
    name: str = ""
    """The user's name of the identity; "" if it has none."""


def hardest_section(
    identities: Sequence[HardIdentity],
    pairs: Sequence[Mapping[str, Any]],
    *,
    key: str,
    title: str,
    listed: Sequence[Card] = (),
    lists: str = "ranked-lists",
) -> Section:
    """Make the section of the identities and the camera pairs that are hardest to match.

    Args:
      identities: hardest first.
      pairs: see `retrieval.camera_pairs`; none if the cameras are unknown.
      key: the section's.
      title: the section's.
      listed: the ranked lists on the page; what they show has a link to them.
      lists: the key of their section.
    """
    links = _Links(listed, lists)
    hardest = _identity_table(identities, links)
    if pairs:
        columns = [
            heading("Identities") + hardest,
            heading("Camera pairs") + _pair_table(pairs, links) + _pair_matrix(pairs, links),
        ]
        body = grid(columns)
    else:
        text = "Cameras are not known, so there are no camera pairs."
        body = f"{hardest}\n{paragraph(text)}"
    return Section(key, title, body)


class _Links:
    """Links to the ranked lists on the page; the script sets the filters that a link names."""

    def __init__(self, listed: Sequence[Card], lists: str):
        self._people = {card.query.who for card in listed}
        self._pairs = {(card.query.camera, b) for card in listed for b in match_cameras(card)}
        self._lists = lists

    def of_identity(self, who: str) -> str:
        """Return a name, with a link if a list of the identity is shown."""
        return self._link(who, {"pid": who}) if who in self._people else who

    def of_pair(self, text: str, cameras: tuple[int, int]) -> str:
        """Return a text, with a link if a list of the pair (query, gallery) is shown."""
        if cameras not in self._pairs:
            return text
        return self._link(text, {"camera": cameras[0], "seen": cameras[1]})

    def _link(self, text: str, filters: Mapping[str, Any]) -> Markup:
        wanted = escape(urlencode({name: printable(str(own)) for name, own in filters.items()}))
        return Markup(f'<a href="#{self._lists}" data-set="{wanted}">{escape(text)}</a>')


def _identity_table(identities: Sequence[HardIdentity], links: _Links) -> Markup:
    rows = [
        [
            links.of_identity(identity.name or str(identity.pid)),
            picture(identity.thumbnail, f"A query of identity {identity.name or identity.pid}"),
            identity.num_queries,
            percent(identity.mean_ap),
            percent(identity.rank1),
        ]
        for identity in identities
    ]
    caption = f"The {len(rows)} identities of lowest mAP; figures in per cent"
    head = ["identity", "a query", "queries", "mAP", "Rank-1"]
    return table(caption, head, rows, style="looks")


def _pair_table(pairs: Sequence[Mapping[str, Any]], links: _Links) -> Markup:
    rows = [
        [
            links.of_pair(
                f"{pair['query_camera']} to {pair['gallery_camera']}",
                (pair["query_camera"], pair["gallery_camera"]),
            ),
            f"{pair['num_valid_query']:,}",
            percent(pair["mAP"]),
            percent(pair["rank1"]),
        ]
        for pair in sorted(pairs, key=lambda pair: pair["mAP"])[:10]
    ]
    caption = f"The {len(rows)} camera pairs of lowest mAP; figures in per cent"
    return table(caption, ["cameras", "queries", "mAP", "Rank-1"], rows)


def _pair_matrix(pairs: Sequence[Mapping[str, Any]], links: _Links) -> Markup:
    """Make the table of the mAP of all camera pairs; lower values are darker."""
    query_cameras = sorted({pair["query_camera"] for pair in pairs})
    gallery_cameras = sorted({pair["gallery_camera"] for pair in pairs})
    values = {(pair["query_camera"], pair["gallery_camera"]): pair["mAP"] for pair in pairs}
    low, high = min(values.values()), max(values.values())

    def cell(a: int, b: int) -> Any:
        value = values.get((a, b))
        if value is None:
            return "-"
        share = (high - value) / (high - low) if high > low else 0
        text = links.of_pair(percent(value), (a, b))
        return Cell(text, f"h{min(int(9.999 * share), 9)}")

    rows = [[f"from {a}", *(cell(a, b) for b in gallery_cameras)] for a in query_cameras]
    caption = (
        "mAP in per cent of the queries from one camera (rows) in the gallery images of another "
        "(columns). Darker cells are harder; a cell with a link has lists on this page"
    )
    return table(caption, ["", *(f"in {b}" for b in gallery_cameras)], rows, style="matrix")
