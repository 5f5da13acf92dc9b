"""The section of ranked lists: one card per query, and a form that filters the cards."""

from collections.abc import Sequence
from typing import NamedTuple

from batnet_jax.report.page import Markup, Section, escape, icon, paragraph
from batnet_jax.report.thumbnails import picture

KINDS = {
    "worst": "lowest AP",
    "median": "AP around the median",
    "best": "highest AP",
    "random": "drawn at random",
    "hardest": "the lowest AP of one of the hardest identities or camera pairs",
}
"""Why a query is shown."""
VERDICTS = {"right": "same identity", "wrong": "other identity", "same": "same camera"}
WIDE = 1.25
"""The median height / width of images below which lists have wider places."""


class PageImage(NamedTuple):
    """An image on the page, its identity and its camera."""

    thumbnail: str
    """See `Thumbnails.add`."""
    pid: int
    camera: int | None
    """None: unknown."""
    name: str = ""
    """The user's name of the identity; "" if it has none."""
    file: str = ""
    """The name of its file; "" if unknown."""

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
    score: float
    """The cosine of the features of query and image."""


class Card(NamedTuple):
    """A query and the first places of its ranked list."""

    query: PageImage
    kinds: Sequence[str]
    """At least one of `KINDS`."""
    average_precision: float
    first_rank: int
    """The rank of the first right image, from 1."""
    hits: Sequence[Hit]
    """Best first."""
    left_out: int
    """Images of the same camera that rank among the hits but are not shown."""
    missed: Sequence[Hit] = ()
    """The first of the right images behind the hits."""
    num_missed: int = 0
    """All right images behind the hits."""


def ranked_lists_section(
    shown: Sequence[Card],
    *,
    num_queries: int,
    num_valid: int,
    suffix: str = "",
    title: str = "Ranked lists",
    aspect: float = 2.0,
) -> Section:
    """Make the section of ranked lists.

    Args:
      shown: at least one.
      num_queries: all queries of the test.
      num_valid: the queries that have a match in the gallery.
      suffix: ends the section's anchor: letters, digits and hyphens.
      title: the section's.
      aspect: the median height / width of the images.
    """
    kinds = [kind for kind in KINDS if any(kind in card.kinds for card in shown)]
    meanings = "; ".join(f"{kind}: {KINDS[kind]}" for kind in kinds)
    text = f"{len(shown):,} of {num_valid:,} queries, chosen by kind ({meanings})."
    if num_valid < num_queries:
        text += f" Another {num_queries - num_valid:,} queries have no match in the gallery."
    text += (
        " Each list shows the query, then the gallery images, best first, with the cosine of their"
        " features; then the first of the matches that it missed. Click an image to enlarge it."
    )
    body = paragraph(text) + cards(shown, key=f"list{suffix}", aspect=aspect)
    return Section(f"ranked-lists{suffix}", title, body)


def cards(shown: Sequence[Card], *, key: str, aspect: float = 2.0) -> Markup:
    """Make the filter form and the cards.

    Args:
      shown: at least one.
      key: begins the anchors: letters, digits and hyphens.
      aspect: the median height / width of the images.
    """
    style = "cards wide" if aspect < WIDE else "cards"
    listed = "\n".join(_card(card, f"{key}-{number}") for number, card in enumerate(shown))
    return Markup(
        f'{_form(shown, key)}\n{_legend()}\n<div class="{style}">\n{listed}\n</div>\n'
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
    camera = _select(f"{key}-camera", "Query camera", "camera", [(str(c), str(c)) for c in cameras])
    seen = sorted({camera for card in shown for camera in match_cameras(card)})
    seen = _select(f"{key}-seen", "Match camera", "seen", [(str(c), str(c)) for c in seen])
    first = [("right", "same identity"), ("wrong", "other identity")]
    people = {card.query.pid: card.query.who for card in shown}
    options = "".join(f'<option value="{escape(people[pid])}"></option>' for pid in sorted(people))
    named = any(card.query.name for card in shown)
    numeric = "" if named else ' inputmode="numeric"'
    return (
        f'<form class="filters" hidden aria-label="Filter the ranked lists">'
        f'<fieldset class="choice"><legend>Queries</legend><div>{radios}</div></fieldset>'
        f"{camera + seen if cameras else ''}"
        f'<p><label for="{key}-pid">Identity</label><input id="{key}-pid" type="search"'
        f'{numeric} autocomplete="off" placeholder="any" list="{key}-pids"'
        f' data-filter="pid"><datalist id="{key}-pids">{options}</datalist></p>'
        f"{_select(f'{key}-first', 'First place', 'first', first)}"
        '<p><button type="reset">Reset</button></p>'
        '<output aria-live="polite"></output></form>'
    )


def match_cameras(card: Card) -> set[int]:
    """Return the cameras of the card's images that count as matches of its query."""
    listed = [hit for hit in (*card.hits, *card.missed) if hit.verdict == "right"]
    return {hit.image.camera for hit in listed if hit.image.camera is not None}


def _select(key: str, label: str, name: str, values: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{value}">{text}</option>' for value, text in values)
    return (
        f'<p><label for="{key}">{label}</label><select id="{key}" data-filter="{name}">'
        f'<option value="">any</option>{options}</select></p>'
    )


def _legend() -> str:
    """Make the legend of the icons."""
    meanings = {
        "right": "same identity: a match, which counts",
        "wrong": "other identity",
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
    seen = " ".join(map(str, sorted(match_cameras(card))))
    data = (
        f'data-kinds="{" ".join(card.kinds)}" data-camera="{camera}" data-pid="{escape(query.who)}"'
        f' data-first="{first}" data-seen="{seen}"'
    )
    kinds = "".join(f'<li title="{KINDS[kind]}">{kind}</li>' for kind in card.kinds)
    where = f", camera {camera}" if camera else ""
    title = f"Identity {escape(query.who)}{where}"
    facts = f"AP {card.average_precision:.3f}, first match at rank {card.first_rank}"
    note = f"{card.left_out} more images of the same camera are not shown" if card.left_out else ""
    places = "".join(map(_hit, card.hits))
    style = "row both" if card.missed else "row"
    return (
        f'<article class="card" {data} aria-labelledby="{key}">'
        f'<div class="top"><h3 id="{key}">{title}</h3>'
        f'<p>{facts}</p><ul class="kinds">{kinds}</ul></div>'
        f'<div class="{style}" data-zooms="{title}"><div class="query"><p class="group">query</p>'
        f"{zoom(query, 'query', 'Query')}{_file(query)}</div>"
        f'<div><p class="group">gallery, best first</p><ol class="hits">{places}</ol></div>'
        f"{_missed(card)}</div>" + (f'<p class="note">{note}</p>' if note else "") + "</article>"
    )


def _missed(card: Card) -> str:
    """Make the list of missed matches; "" if there are none."""
    if not card.missed:
        return ""
    places = "".join(map(_hit, card.missed))
    more = card.num_missed - len(card.missed)
    note = f'<p class="note">and {more:,} more</p>' if more else ""
    return (
        f'<div class="missed"><p class="group">missed: {card.num_missed:,} of the same identity, '
        f'further down</p><ol class="hits">{places}</ol>{note}</div>'
    )


def _hit(hit: Hit) -> str:
    """Make one place of a list."""
    rank = hit.rank or "–"  # noqa: RUF001 - a dash is meant
    place = f"rank {hit.rank}" if hit.rank else "not counted"
    camera = "" if hit.image.camera is None else f" · c{hit.image.camera}"
    verdict = VERDICTS[hit.verdict]
    facts = f"{place}, {verdict}, cosine {hit.score:.3f}"
    return (
        f'<li class="hit {hit.verdict}">'
        f"{zoom(hit.image, facts, f'Gallery image, {place}')}"
        f'<p class="verdict {hit.verdict}">{icon(hit.verdict)}<b>{rank}</b> '
        f"<span>{verdict}</span></p>"
        f'<p class="who">{escape(hit.image.who)}{camera}</p>'
        f'<p class="score">{hit.score:.3f}</p>{_file(hit.image)}</li>'
    )


def zoom(image: PageImage, head: str, what: str) -> Markup:
    """Make an image that the script enlarges; `data-zooms` marks the element of a whole list.

    Args:
      image: the image.
      head: above its facts in the window; "query" for the image that stays beside the others.
      what: the image's part on the page, for screen readers.
    """
    camera = "" if image.camera is None else f", camera {image.camera}"
    who = f"identity {image.who}{camera}"
    about = "\n".join([escape(who), *([escape(image.file)] if image.file else [])])
    return Markup(
        f'<button type="button" class="zoom" data-head="{escape(head)}" data-about="{about}">'
        f"{picture(image.thumbnail, f'{what}: {who}')}</button>"
    )


def _file(image: PageImage) -> str:
    """Make the line with a file's name, which is cut where it is too long."""
    name = image.file.rpartition("/")[2]
    return f'<p class="file" title="{escape(image.file)}">{escape(name)}</p>' if name else ""
