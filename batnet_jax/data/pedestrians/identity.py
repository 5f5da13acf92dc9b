"""The fixed properties of an identity: body, hair, skin, clothes, shoes and bag.

Identities form families. The members wear the same colours on different garments and in different
patterns. A colour histogram therefore finds the family at best. To tell its members apart, a
network must see the position of a colour on the body.
"""

from typing import NamedTuple

from batnet_jax.data.pedestrians.dice import Dice
from batnet_jax.data.pedestrians.raster import Colour
from batnet_jax.data.pedestrians.style import EASY

COLOURS_IN_FAMILY = 3

CLOTH: tuple[Colour, ...] = (
    (34, 34, 42),  # black
    (232, 230, 224),  # white
    (196, 34, 44),  # red
    (32, 74, 178),  # blue
    (34, 130, 66),  # green
    (236, 190, 40),  # yellow
    (128, 56, 150),  # purple
    (110, 190, 222),  # sky
)
SKIN: tuple[Colour, ...] = ((240, 200, 170), (214, 164, 126), (160, 108, 76), (100, 66, 48))
HAIR: tuple[Colour, ...] = (
    (26, 22, 22),
    (84, 52, 32),
    (206, 164, 92),
    (150, 66, 36),
    (170, 168, 166),
)

PATTERNS = (
    "plain",
    "hoops",
    "stripes",
    "checks",
    "dots",
    "halves",
    "band",
    "open",
    "raglan",
    "sash",
)
WITH_LOGO = ("plain", "raglan", "halves")  # in other patterns a logo would be invisible
UPPERS = ("short", "long", "long", "coat", "dress")
LOWERS = ("trousers", "trousers", "shorts", "skirt", "long skirt", "boots", "cuffs", "side stripe")
HAIRSTYLES = ("short", "short", "long", "long", "bun", "afro", "bald")
HATS = ("none", "none", "none", "cap", "beanie", "brim")
BAGS = ("none", "none", "backpack", "backpack", "shoulder", "handbag", "suitcase")


class Identity(NamedTuple):
    """The properties common to all images of a person; lengths in 1/1000 of the height."""

    stature: int  # percent of the average height
    build: int  # percent of the average width
    shoulders: int  # half-width
    hips: int  # half-width
    crotch: int  # distance from the top of the head
    skin: Colour
    hair: Colour
    hairstyle: str
    upper: str
    pattern: str
    upper_colour: Colour
    accent_colour: Colour
    logo: str  # "none", "chest" or "back"
    lower: str
    lower_colour: Colour
    shoe_colour: Colour
    hat: str
    hat_colour: Colour
    bag: str
    bag_colour: Colour


def make_identity(seed: int, pid: int, family_size: int = EASY.family) -> Identity:
    """Return the person with a pid: a pure function of its arguments."""
    family, member = divmod(pid, family_size)
    shared = Dice(seed, "family", family)
    colours = shared.shuffled(CLOTH)[:COLOURS_IN_FAMILY]
    patterns = shared.shuffled(PATTERNS)
    pattern = patterns[member]
    dice = Dice(seed, "identity", pid)
    # Members rotate the shared colours over upper, accent and lower.
    orders = shared.shuffled([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    upper, accent, lower = (colours[i] for i in orders[member])
    return Identity(
        stature=dice.between(90, 108),
        build=dice.choose((84, 92, 100, 108, 122)),
        shoulders=dice.between(108, 136),
        hips=dice.between(84, 104),
        crotch=dice.between(500, 550),
        skin=dice.choose(SKIN),
        hair=dice.choose(HAIR),
        hairstyle=dice.choose(HAIRSTYLES),
        upper=dice.choose(UPPERS),
        pattern=pattern,
        upper_colour=upper,
        accent_colour=accent,
        logo=dice.choose(("none", "chest", "back")) if pattern in WITH_LOGO else "none",
        lower=dice.choose(LOWERS),
        lower_colour=lower,
        shoe_colour=dice.choose((CLOTH[0], CLOTH[1], accent, (112, 74, 44))),
        hat=dice.choose(HATS),
        hat_colour=dice.choose(colours),
        bag=dice.choose(BAGS),
        bag_colour=dice.choose((*colours, (112, 74, 44))),
    )
