"""Draws a walking person from a small skeleton, turned and seen from above.

Joints are in 1/1000 of the person's height: x to the person's left, y down from the top of the
head, z forward. With a yaw of 0 the person faces the viewer, with 90 the right edge of the picture.
"""

from typing import NamedTuple

from batnet_jax.data.pedestrians import texture
from batnet_jax.data.pedestrians.dice import ONE, Dice, cosine, sine
from batnet_jax.data.pedestrians.identity import Identity
from batnet_jax.data.pedestrians.raster import (
    Canvas,
    Colour,
    Point,
    capsule,
    ellipse,
    lathe,
    shadow,
)

FACINGS = {"front": 0, "right": 90, "back": 180, "left": 270}
FACING_JITTER = 35  # degrees to either side of a facing
STANDING = 15  # percent of images in which the person stands still

Joint = tuple[int, int, int]
_SHOULDER, _WAIST, _ANKLE = 180, 440, 955


class Pose(NamedTuple):
    """A person's direction, step and position in one image."""

    facing: str
    yaw: int  # degrees
    swing: int  # degrees: greatest forward swing of a leg
    phase: int  # degrees: position in the walking cycle
    bend: int  # degrees: bend of the elbows
    phone: bool  # whether one hand is at the ear
    pitch: int  # degrees: downward view of the camera
    top: Point  # the top of the head, in eighths of a canvas pixel
    height: int  # height of the figure, in eighths of a canvas pixel


def make_pose(dice: Dice, *, pitch: int, top: Point, height: int) -> Pose:
    """Draw a random pose from an image's dice."""
    facing = dice.choose(tuple(FACINGS))
    return Pose(
        facing=facing,
        yaw=(FACINGS[facing] + dice.spread(FACING_JITTER)) % 360,
        swing=0 if dice.chance(STANDING) else dice.between(12, 28),
        phase=dice.below(360),
        bend=dice.between(8, 45),
        phone=dice.chance(8),
        pitch=pitch,
        top=top,
        height=height,
    )


class _Body:
    """A projection of joints and lengths to canvas coordinates, for one person and pose."""

    def __init__(self, person: Identity, pose: Pose) -> None:
        self.person, self.pose = person, pose
        self.cos, self.sin = cosine(pose.yaw), sine(pose.yaw)
        self.turn = self.sin * 64 // ONE
        self.front = self.cos > -ONE // 4
        self.near = 1 if self.sin < 0 else -1  # sign of x on the side closer to the viewer

    def at(self, joint: Joint) -> Point:
        x, y, z = joint
        across = (x * self.cos + z * self.sin) // ONE
        depth = (z * self.cos - x * self.sin) // ONE
        down = (y * cosine(self.pose.pitch) + depth * sine(self.pose.pitch)) // ONE
        return self.pose.top[0] + self.size(across), self.pose.top[1] + self.size(down)

    def size(self, length: int) -> int:
        return length * self.pose.height // 1000

    def girth(self, length: int) -> int:
        return self.size(length) * self.person.build // 100

    def across(self, width: int, depth: int) -> int:
        """Return the visible half-width of a body part from its half-width and half-depth."""
        return self.girth((width * abs(self.cos) + depth * abs(self.sin)) // ONE)

    def row(self, y: int, width: int, depth: int, z: int = 0) -> tuple[int, int, int]:
        """Return one row of a `lathe` around the body's axis."""
        x, down = self.at((0, y, z))
        return down, x, self.across(width, depth)


def draw_person(canvas: Canvas, person: Identity, pose: Pose) -> None:
    """Draw a person on the canvas, far parts first."""
    body = _Body(person, pose)
    feet = body.at((0, 985, 0))
    shadow(canvas, feet, (body.girth(190), body.size(34)), 150)
    if body.front:
        _backpack(canvas, body)
    _arm(canvas, body, -body.near)
    for side in (-body.near, body.near):
        _leg(canvas, body, side)
    _long_hair(canvas, body, behind=body.front)
    _lower(canvas, body)
    _torso(canvas, body)
    _head(canvas, body)
    _long_hair(canvas, body, behind=not body.front)
    if not body.front:
        _backpack(canvas, body)
    _arm(canvas, body, body.near)
    _carried(canvas, body)


def _knee_and_ankle(body: _Body, side: int) -> tuple[Joint, Joint, Joint]:
    hip_x = side * body.person.hips * body.person.build // 100 * 55 // 100
    hip = (hip_x, body.person.crotch - 30, 0)
    swing = body.pose.swing * sine(body.pose.phase) * side // ONE
    flex = max(0, body.pose.swing * cosine(body.pose.phase) * side * 3 // (2 * ONE))
    length = (_ANKLE - hip[1]) // 2
    knee = (hip_x, hip[1] + length * cosine(swing) // ONE, length * sine(swing) // ONE)
    shin = swing - flex
    ankle = (hip_x, knee[1] + length * cosine(shin) // ONE, knee[2] + length * sine(shin) // ONE)
    return hip, knee, ankle


def _leg(canvas: Canvas, body: _Body, side: int) -> None:
    person = body.person
    joints = _knee_and_ankle(body, side)
    hip, knee, ankle = (body.at(joint) for joint in joints)
    toe = body.at((joints[2][0], joints[2][1] + 18, joints[2][2] + 52))
    thick, middle, thin = body.girth(62), body.girth(45), body.girth(33)
    bare = person.lower in ("skirt", "long skirt") or person.upper == "dress"
    thigh = person.skin if bare else person.lower_colour
    shin = person.skin if bare or person.lower == "shorts" else person.lower_colour
    style = {"cuffs": texture.cuff(40), "side stripe": texture.side_stripe}.get(person.lower)
    style = None if bare else style
    capsule(canvas, ankle, toe, (body.girth(31), body.size(24)), [person.shoe_colour])
    stripe = texture.side_stripe if person.lower == "side stripe" and not bare else None
    capsule(canvas, hip, knee, (thick, middle), [thigh, person.accent_colour], stripe)
    capsule(canvas, knee, ankle, (middle, thin), [shin, person.accent_colour], style)
    if person.lower == "shorts" and not bare:
        capsule(canvas, hip, knee, (thick, body.girth(50)), [person.lower_colour])
    if person.lower == "boots":
        half = (knee[0] + ankle[0]) // 2, (knee[1] * 2 + ankle[1] * 3) // 5
        capsule(canvas, half, ankle, (body.girth(44), body.girth(36)), [person.shoe_colour])


def _lower(canvas: Canvas, body: _Body) -> None:
    """Draw the hips of trousers, or a skirt."""
    person = body.person
    if person.upper == "dress":
        return
    rows = [body.row(_WAIST, person.hips - 4, 68), body.row(person.crotch - 40, person.hips, 76)]
    if person.lower == "skirt":
        rows.append(body.row(690, person.hips + 34, 112))
    elif person.lower == "long skirt":
        rows.append(body.row(890, person.hips + 38, 116))
    else:
        rows.append(body.row(person.crotch + 30, person.hips - 6, 66))
    lathe(canvas, rows, [person.lower_colour])


def _torso(canvas: Canvas, body: _Body) -> None:
    person = body.person
    neck = body.row(142, 34, 34), body.row(168, 40, 40)
    rows = [
        body.row(158, 44, 44),
        body.row(_SHOULDER, person.shoulders - 8, 66),
        body.row(250, person.shoulders - 14, 84),
        body.row(_WAIST - 40, person.hips - 6, 72),
        body.row(person.crotch - 38, person.hips + 4, 80),
    ]
    if person.upper == "coat":
        rows.append(body.row(680, person.hips + 22, 98))
    elif person.upper == "dress":
        rows.append(body.row(710, person.hips + 44, 122))
    logo = person.logo == ("chest" if body.front else "back")
    style = texture.cloth(person.pattern, body.turn, body.front, logo)
    lathe(canvas, neck, [person.skin])
    lathe(canvas, rows, [person.upper_colour, person.accent_colour], style)
    if person.upper == "coat" and person.pattern not in ("hoops", "checks"):
        belt = [body.row(_WAIST - 8, person.hips, 76), body.row(_WAIST + 12, person.hips, 76)]
        lathe(canvas, belt, [person.accent_colour])


def _arm(canvas: Canvas, body: _Body, side: int) -> None:
    person, pose = body.person, body.pose
    x = side * (person.shoulders - 18) * person.build // 100
    angle = -pose.swing * sine(pose.phase) * side // ONE
    lift = pose.bend
    if pose.phone and side > 0:
        angle, lift = 35, 140
    elbow = (x + side * 16, 205 + 160 * cosine(angle) // ONE, 160 * sine(angle) // ONE)
    hand_y = elbow[1] + 150 * cosine(angle + lift) // ONE
    hand = (x + side * 14, hand_y, elbow[2] + 150 * sine(angle + lift) // ONE)
    shoulder, elbow_at, hand_at = body.at((x, 208, 0)), body.at(elbow), body.at(hand)
    sleeve = person.accent_colour if person.pattern == "raglan" else person.upper_colour
    bare = person.upper in ("short", "dress")
    fore = person.skin if bare else sleeve
    radii = body.girth(44), body.girth(34), body.girth(27)
    ellipse(canvas, hand_at, (body.size(28), body.size(28)), [person.skin])
    cuffs = texture.cuff(48) if person.pattern in ("band", "halves", "sash") else None
    if person.pattern == "hoops":
        cuffs = lambda u, v: (v * 4 // 65) % 2  # noqa: E731
    capsule(
        canvas, elbow_at, hand_at, radii[1:], [fore, person.accent_colour], None if bare else cuffs
    )
    upper_end = elbow_at
    if bare:
        capsule(canvas, shoulder, elbow_at, (radii[1], radii[1]), [person.skin])
        upper_end = (shoulder[0] + elbow_at[0] * 2) // 3, (shoulder[1] + elbow_at[1] * 2) // 3
    capsule(canvas, shoulder, upper_end, radii[:2], [sleeve, person.accent_colour], None)


def _head(canvas: Canvas, body: _Body) -> None:
    person = body.person
    centre = body.at((0, 78, 8))
    radii = body.size(60), body.size(76)
    if person.hairstyle == "afro":
        ellipse(canvas, body.at((0, 62, -16)), (body.size(88), body.size(84)), [person.hair])
    if person.hairstyle == "bun":
        ellipse(canvas, body.at((0, 18, -40)), (body.size(36), body.size(34)), [person.hair])
    colours = [person.skin, person.hair, (40, 30, 30)]
    style = texture.head(body.turn, body.front, person.hairstyle == "bald")
    ellipse(canvas, centre, radii, colours, style)
    if person.hat != "none":
        _hat(canvas, body)


def _hat(canvas: Canvas, body: _Body) -> None:
    person = body.person
    hat = [person.hat_colour]
    half, (x, top) = body.size(66), body.at((0, -8, 6))
    dome = [
        (top, x, half // 3),
        (top + body.size(22), x, half * 7 // 8),
        (top + body.size(58), x, half),
    ]
    if person.hat == "beanie":
        ellipse(canvas, (x, top), (body.size(24), body.size(22)), hat)
    lathe(canvas, dome, hat)
    if person.hat == "brim":
        line = top + body.size(58)
        edge = body.size(100)
        capsule(canvas, (x - edge, line), (x + edge, line), (body.size(13), body.size(13)), hat)
    if person.hat == "cap":
        start, end = body.at((0, 52, 40)), body.at((0, 58, 112))
        if body.front:
            capsule(canvas, start, end, (body.size(28), body.size(20)), hat)


def _long_hair(canvas: Canvas, body: _Body, *, behind: bool) -> None:
    """Draw hair to the shoulder blades: behind the neck in front view, over it in back view."""
    if body.person.hairstyle != "long" or behind != body.front:
        return
    rows = [body.row(60, 0, 0, -22), body.row(250, 0, 0, -46)]
    halves = body.size(62), body.size(70)
    lathe(
        canvas,
        [(y, x, half) for (y, x, _), half in zip(rows, halves, strict=True)],
        [body.person.hair],
    )


def _backpack(canvas: Canvas, body: _Body) -> None:
    """Draw a backpack; in front view the body, drawn later, leaves only its edges visible."""
    person = body.person
    if person.bag != "backpack":
        return
    width = body.size((104 * abs(body.cos) + 52 * abs(body.sin)) // ONE)
    rows = []
    for y, share in ((176, 60), (205, 100), (400, 100), (425, 80)):
        x, down = body.at((0, y, -112))
        rows.append((down, x, width * share // 100))
    pocket = texture.cuff(40, 44)
    dark: Colour = tuple(channel // 2 for channel in person.bag_colour)  # type: ignore[assignment]
    lathe(canvas, rows, [person.bag_colour, dark], pocket)


def _carried(canvas: Canvas, body: _Body) -> None:
    """Draw the straps of a backpack, a shoulder bag with its belt, a handbag or a suitcase."""
    person, bag = body.person, [body.person.bag_colour]
    width = (person.shoulders - 40) * person.build // 100
    if person.bag == "backpack" and body.front:
        for side in (-1, 1):
            ends = body.at((side * width, 172, 40)), body.at((side * width, 340, 66))
            capsule(canvas, *ends, (body.size(17), body.size(17)), bag)
    if person.bag == "shoulder":
        depth = 70 if body.front else -70
        ends = body.at((-width, 172, depth)), body.at((width + 30, 480, depth // 2))
        capsule(canvas, *ends, (body.size(13), body.size(13)), bag)
        _box(canvas, body, (width + 40, 530, depth // 2), (76, 62))
    if person.bag == "handbag":
        _box(canvas, body, (-person.shoulders, 590, 30), (70, 66))
    if person.bag == "suitcase":
        _box(canvas, body, (person.shoulders + 70, 840, -60), (84, 130))
        ends = body.at((person.shoulders + 60, 710, -60)), body.at((person.shoulders, 520, 0))
        capsule(canvas, *ends, (body.size(8), body.size(8)), [(50, 50, 54)])


def _box(canvas: Canvas, body: _Body, centre: Joint, halves: tuple[int, int]) -> None:
    """Draw an upright bag with a dark clasp beside the body."""
    x, y = body.at(centre)
    half, rise = body.size(halves[0]), body.size(halves[1])
    dark: Colour = tuple(channel // 2 for channel in body.person.bag_colour)  # type: ignore[assignment]
    rows = [(y - rise, x, half * 3 // 4), (y - rise * 3 // 4, x, half), (y + rise, x, half)]
    lathe(canvas, rows, [body.person.bag_colour, dark], texture.cuff(24, 30))
