"""The section of ranked lists: one card per query, and a form that filters the cards."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from batnet_jax.report.page import Markup, Section, escape, icon, paragraph
from batnet_jax.report.thumbnails import picture

KINDS = {
    "worst": "lowest AP",
    "median": "AP around the median",
    "best": "highest AP",
    "random": "drawn at random",
}
"""Why a query is shown."""
_VERDICTS = {"right": "right", "wrong": "wrong", "same": "same camera"}


class PageImage(NamedTuple):
    """An image on the page, its identity and its camera."""

    thumbnail: str
    """See `Thumbnails.add`."""
    pid: int
    camera: int | None
    """None: unknown."""
    name: str = ""
    """The user's name of the identity; "" if it has none."""

    @property
    def who(self) -> str:
        """The name, or else the number, of the identity."""
        return self.name or str(self.pid)


class Hit(NamedTuple):
    """A gallery image in a ranked list."""

    image: PageImage
    rank: int
    """The rank, from 1; 0 for an image that does not count."""
    verdict: str
    """`right`, `wrong`, or `same`: the query's identity, seen by the query's own camera."""


class Card(NamedTuple):
    """A query and the first places of its ranked list."""

    query: PageImage
    kinds: Sequence[str]
    """At least one of `KINDS`."""
    average_precision: float
    first_rank: int
    """The rank of the first right image, from 1."""
    hits: Sequence[Hit]
    """Best first. If none of the first places is right, the first right image follows them."""
    left_out: int
    """Images of the same camera that rank among the hits but are not shown."""


def ranked_lists_section(
    shown: Sequence[Card],
    *,
    num_queries: int,
    num_valid: int,
    suffix: str = "",
    title: str = "Ranked lists",
) -> Section:
    """Make the section of ranked lists.

    Args:
      shown: at least one.
      num_queries: all queries of the test.
      num_valid: the queries that have a match in the gallery.
      suffix: ends the section's anchor: letters, digits and hyphens.
      title: the section's.
    """
    meanings = "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
    text = f"{len(shown):,} of {num_valid:,} queries, chosen by kind ({meanings})."
    if num_valid < num_queries:
        text += f" Another {num_queries - num_valid:,} queries have no match in the gallery."
    text += " Each list shows the query on the left, then the gallery images, best first."
    body = paragraph(text) + cards(shown, key=f"list{suffix}")
    return Section(f"ranked-lists{suffix}", title, body)


def cards(shown: Sequence[Card], *, key: str) -> Markup:
    """Make the filter form and the cards.

    Args:
      shown: at least one.
      key: begins the anchors: letters, digits and hyphens.
    """
    listed = "\n".join(_card(card, f"{key}-{number}") for number, card in enumerate(shown))
    return Markup(
        f'{_form(shown, key)}\n{_legend()}\n<div class="cards">\n{listed}\n</div>\n'
        '<p class="nothing" hidden>No list matches: remove a filter, or reset them all.</p>\n'
        '<button type="button" class="more" hidden>Show more</button>'
    )


def _form(shown: Sequence[Card], key: str) -> str:
    """Make the filter form, which is hidden until the script runs."""
    kinds = [kind for kind in KINDS if any(kind in card.kinds for card in shown)]
    radios = "".join(
        f'<label><input type="radio" name="{key}-kind" value="{value}"'
        f"{'' if value else ' checked'} data-filter=kinds><span>{text}</span></label>"
        for value, text in [("", "All"), *((kind, kind.capitalize()) for kind in kinds)]
    )
    cameras = sorted({card.query.camera for card in shown if card.query.camera is not None})
    camera = _select(f"{key}-camera", "Camera", "camera", [(str(c), str(c)) for c in cameras])
    first = [("right", "right"), ("wrong", "wrong")]
    people = {card.query.pid: card.query.who for card in shown}
    options = "".join(f'<option value="{escape(people[pid])}"></option>' for pid in sorted(people))
    named = any(card.query.name for card in shown)
    numeric = "" if named else ' inputmode="numeric"'
    return (
        f'<form class="filters" hidden aria-label="Filter the ranked lists">'
        f'<fieldset class="choice"><legend>Queries</legend><div>{radios}</div></fieldset>'
        f"{camera if cameras else ''}"
        f'<p><label for="{key}-pid">Identity</label><input id="{key}-pid" type="search"'
        f'{numeric} autocomplete="off" placeholder="any" list="{key}-pids"'
        f' data-filter="pid"><datalist id="{key}-pids">{options}</datalist></p>'
        f"{_select(f'{key}-first', 'First place', 'first', first)}"
        '<p><button type="reset">Reset</button></p>'
        '<output aria-live="polite"></output></form>'
    )


def _select(key: str, label: str, name: str, values: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{value}">{text}</option>' for value, text in values)
    return (
        f'<p><label for="{key}">{label}</label><select id="{key}" data-filter="{name}">'
        f'<option value="">any</option>{options}</select></p>'
    )


def _legend() -> str:
    """Make the legend of the icons."""
    meanings = {
        "right": "right: the query's identity, seen by another camera",
        "wrong": "wrong: another identity",
        "same": "same camera: the query's identity, seen by the query's camera; does not count",
    }
    items = "".join(
        f'<li><span class="verdict {name}">{icon(name)}</span>{escape(text)}</li>'
        for name, text in meanings.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _card(card: Card, key: str) -> str:
    query = card.query
    counted = [hit for hit in card.hits if hit.rank]
    first = counted[0].verdict if counted else ""
    camera = "" if query.camera is None else str(query.camera)
    data = (
        f'data-kinds="{" ".join(card.kinds)}" data-camera="{camera}" data-pid="{escape(query.who)}"'
        f' data-first="{first}"'
    )
    kinds = "".join(f'<li title="{KINDS[kind]}">{kind}</li>' for kind in card.kinds)
    where = f", camera {camera}" if camera else ""
    facts = f"AP {card.average_precision:.3f}, first right image at rank {card.first_rank}"
    note = f"{card.left_out} more images of the same camera are not shown" if card.left_out else ""
    previous = {b.rank: a.rank for a, b in itertools.pairwise(counted)}
    places = "".join(_hit(hit, previous=previous.get(hit.rank, 0)) for hit in card.hits)
    return (
        f'<article class="card" {data} aria-labelledby="{key}">'
        f'<div class="top"><h3 id="{key}">Identity {escape(query.who)}{where}</h3>'
        f'<p>{facts}</p><ul class="kinds">{kinds}</ul></div>'
        f'<div class="row"><div class="query">{picture(query.thumbnail, _alt("Query", query))}'
        f'<p>query</p></div><ol class="hits">{places}</ol></div>'
        + (f'<p class="note">{note}</p>' if note else "")
        + "</article>"
    )


def _hit(hit: Hit, *, previous: int) -> str:
    """Make one place of a list, marked if ranks after the previous place are skipped."""
    name = f"rank {hit.rank}" if hit.rank else "not counted"
    skipped = " far" if previous and hit.rank > previous + 1 else ""
    rank = hit.rank or "–"  # noqa: RUF001 - a dash is meant
    camera = "" if hit.image.camera is None else f" · c{hit.image.camera}"
    return (
        f'<li class="hit {hit.verdict}{skipped}">'
        f"{picture(hit.image.thumbnail, _alt(f'Gallery image, {name}', hit.image))}"
        f'<p class="verdict {hit.verdict}">{icon(hit.verdict)}<b>{rank}</b> '
        f"<span>{_VERDICTS[hit.verdict]}</span></p>"
        f'<p class="who">{escape(hit.image.who)}{camera}</p></li>'
    )


def _alt(what: str, image: PageImage) -> str:
    camera = "" if image.camera is None else f", camera {image.camera}"
    return f"{what}: identity {image.who}{camera}"
