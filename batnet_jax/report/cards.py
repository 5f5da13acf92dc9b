"""Ranked lists to look through: a card for each query, and the form that chooses among them."""

from collections.abc import Sequence
from typing import NamedTuple

from batnet_jax.report.page import Markup, escape, icon
from batnet_jax.report.thumbnails import picture

KINDS = {
    "worst": "the lowest AP",
    "median": "an AP in the middle",
    "best": "the highest AP",
    "random": "drawn at random",
}
_WORDS = {"right": "right", "wrong": "wrong", "same": "same camera"}


class Shown(NamedTuple):
    """An image on the page and who is on it."""

    thumbnail: str
    """See `Thumbnails.add`."""
    pid: int
    camera: int | None
    """None: not known."""


class Hit(NamedTuple):
    """A gallery image in a list."""

    image: Shown
    rank: int
    """1-based; 0: it does not count."""
    verdict: str
    """`right`, `wrong`, or `same`: the query's identity seen by its own camera."""


class Card(NamedTuple):
    """A query and the head of its ranked list."""

    query: Shown
    kinds: Sequence[str]
    """Why it is shown: of `KINDS`, at least one."""
    average_precision: float
    first_rank: int
    """Of the first right image, from 1."""
    hits: Sequence[Hit]
    """Best first; where none is right the last is the first that is."""
    left_out: int
    """Images of the same camera that stand among the hits and are not shown."""


def cards(shown: Sequence[Card], *, key: str) -> Markup:
    """The form and the cards.

    Args:
      shown: at least one.
      key: begins the anchors: letters, digits and hyphens.
    """
    listed = "\n".join(_card(card, f"{key}-{number}") for number, card in enumerate(shown))
    return Markup(
        f'{_form(shown, key)}\n{_key()}\n<div class="cards">\n{listed}\n</div>\n'
        '<p class="nothing" hidden>No list fits: choose less, or reset the filters.</p>\n'
        '<button type="button" class="more" hidden>Show more</button>'
    )


def _form(shown: Sequence[Card], key: str) -> str:
    """Hidden until the script makes it work."""
    kinds = [kind for kind in KINDS if any(kind in card.kinds for card in shown)]
    radios = "".join(
        f'<label><input type="radio" name="{key}-kind" value="{value}"'
        f"{' checked' * (not value)} data-filter=kinds><span>{text}</span></label>"
        for value, text in [("", "All"), *((kind, kind.capitalize()) for kind in kinds)]
    )
    cameras = sorted({card.query.camera for card in shown if card.query.camera is not None})
    camera = _select(f"{key}-camera", "Camera", "camera", [(str(c), str(c)) for c in cameras])
    first = [("right", "right"), ("wrong", "wrong")]
    pids = sorted({card.query.pid for card in shown})
    options = "".join(f'<option value="{pid}"></option>' for pid in pids)
    return (
        f'<form class="filters" hidden aria-label="Choose among the ranked lists">'
        f'<fieldset class="choice"><legend>Queries</legend><div>{radios}</div></fieldset>'
        f"{camera if cameras else ''}"
        f'<p><label for="{key}-pid">Identity</label><input id="{key}-pid" type="search"'
        f' inputmode="numeric" autocomplete="off" placeholder="any" list="{key}-pids"'
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


def _key() -> str:
    """What the signs mean."""
    meaning = {
        "right": "right: the query's identity, by another camera",
        "wrong": "wrong: another identity",
        "same": "same camera: the query's identity by its own camera; does not count",
    }
    items = "".join(
        f'<li><span class="verdict {name}">{icon(name)}</span>{escape(text)}</li>'
        for name, text in meaning.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _card(card: Card, key: str) -> str:
    query = card.query
    counted = [hit for hit in card.hits if hit.rank]
    first = counted[0].verdict if counted else ""
    camera = "" if query.camera is None else str(query.camera)
    data = (
        f'data-kinds="{" ".join(card.kinds)}" data-camera="{camera}" data-pid="{query.pid}"'
        f' data-first="{first}"'
    )
    kinds = "".join(f'<li title="{KINDS[kind]}">{kind}</li>' for kind in card.kinds)
    where = f", camera {camera}" if camera else ""
    facts = f"AP {card.average_precision:.3f}, first right image at rank {card.first_rank}"
    more = f"{card.left_out} more of the same camera not shown" if card.left_out else ""
    places = "".join(
        _hit(hit, after=counted[i - 1].rank if (i := _place(counted, hit)) else 0)
        for hit in card.hits
    )
    return (
        f'<article class="card" {data} aria-labelledby="{key}">'
        f'<div class="top"><h3 id="{key}">Identity {query.pid}{where}</h3>'
        f'<p>{facts}</p><ul class="kinds">{kinds}</ul></div>'
        f'<div class="row"><div class="query">{picture(query.thumbnail, _alt("Query", query))}'
        f'<p>query</p></div><ol class="hits">{places}</ol></div>'
        + (f'<p class="note">{more}</p>' if more else "")
        + "</article>"
    )


def _place(counted: Sequence[Hit], hit: Hit) -> int:
    return counted.index(hit) if hit.rank else 0


def _hit(hit: Hit, *, after: int) -> str:
    """One place; marked where ranks have been skipped before it."""
    name = "not counted" if not hit.rank else f"rank {hit.rank}"
    skipped = " far" if after and hit.rank > after + 1 else ""
    rank = hit.rank or "–"  # noqa: RUF001 - a dash is meant
    camera = "" if hit.image.camera is None else f" · c{hit.image.camera}"
    return (
        f'<li class="hit {hit.verdict}{skipped}">'
        f"{picture(hit.image.thumbnail, _alt(f'Gallery image, {name}', hit.image))}"
        f'<p class="verdict {hit.verdict}">{icon(hit.verdict)}<b>{rank}</b> '
        f"<span>{_WORDS[hit.verdict]}</span></p>"
        f'<p class="who">{hit.image.pid}{camera}</p></li>'
    )


def _alt(what: str, image: Shown) -> str:
    camera = "" if image.camera is None else f", camera {image.camera}"
    return f"{what}: identity {image.pid}{camera}"
