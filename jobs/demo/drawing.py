"""Draws the demo's images: figures, garments and studio sets. The same seed gives the same image."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Subject = Literal["model", "garment", "background", "mask", "sketch"]
Colour = tuple[int, int, int]
Point = tuple[float, float]

WIDTH, HEIGHT = 480, 640  # pixels of a finished picture
SCALE = 2  # drawn larger by this factor and then reduced, for smooth edges

# Backdrop above, backdrop below, garment, second garment, accent: each set made to go together.
PALETTES: list[tuple[str, str, str, str, str]] = [
    ("#f4d9c6", "#d98e73", "#31415e", "#f3ede4", "#b5432e"),
    ("#dfe7e4", "#8fae9f", "#e8dccb", "#3c4a3f", "#c46a3a"),
    ("#e9e2f3", "#9c8cc0", "#2d2746", "#efe6da", "#d8a13a"),
    ("#f8ead0", "#e2b56a", "#274c4a", "#fbf5e9", "#a63d2f"),
    ("#d9e6f2", "#7f9fc4", "#f4f1ea", "#22324d", "#e07a5f"),
    ("#f3dbe0", "#c98497", "#5b1f33", "#f7ece6", "#2f4858"),
    ("#e6e6e0", "#a9a698", "#1f1f22", "#d8d2c4", "#b08d57"),
    ("#d7ece8", "#6fb0a6", "#f2c9a8", "#264b4a", "#d1495b"),
    ("#f6e3d3", "#c9a083", "#7a4a2b", "#efe3d2", "#3d5a4c"),
    ("#e3e0ee", "#6c6a8e", "#c9b8e8", "#2a2940", "#f0b67f"),
]
SKINS = ["#f1d0b5", "#e0ac86", "#c68a60", "#9c6644", "#6f452c", "#4a2e20"]
HAIRS = ["#241a17", "#3b2a22", "#6b4428", "#a8743f", "#c9c2bb", "#7a2f22"]


@dataclass(frozen=True)
class Look:
    """The properties that all images of a job share: figure, clothes and light."""

    top: Colour
    bottom: Colour
    garment: Colour
    second: Colour
    accent: Colour
    skin: Colour
    hair: Colour
    cut: str
    hairstyle: str
    pattern: str
    prop: str


def draw(subject: Subject, look_seed: int, view: int = 0) -> bytes:
    """A PNG of 480 by 640 pixels; ``view`` 0, 1, 2, … turns the figure while the look stays."""
    look = _look(random.Random(look_seed))
    canvas = _Canvas(random.Random(look_seed * 31 + view))
    _SUBJECTS[subject](canvas, look, view)
    picture = canvas.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=False, compress_level=6)
    return file.getvalue()


def _look(chance: random.Random) -> Look:
    top, bottom, garment, second, accent = (_rgb(code) for code in chance.choice(PALETTES))
    return Look(
        top,
        bottom,
        garment,
        second,
        accent,
        skin=_rgb(chance.choice(SKINS)),
        hair=_rgb(chance.choice(HAIRS)),
        cut=chance.choice(["dress", "gown", "coat", "suit", "skirt"]),
        hairstyle=chance.choice(["bun", "bob", "long", "short"]),
        pattern=chance.choice(["plain", "plain", "stripes", "dots", "block"]),
        prop=chance.choice(["none", "arch", "sun", "panels", "plinth"]),
    )


def _rgb(code: str) -> Colour:
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    """``one`` with ``share`` of ``other`` in it."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _darker(colour: Colour, share: float = 0.25) -> Colour:
    return _mix(colour, (18, 14, 28), share)


def _lighter(colour: Colour, share: float = 0.25) -> Colour:
    return _mix(colour, (255, 252, 245), share)


def _curve(points: Sequence[Point], steps: int = 10) -> list[Point]:
    """A Catmull-Rom curve through ``points``."""
    padded = [points[0], *points, points[-1]]
    curve = []
    for before, start, end, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for step in range(steps):
            t = step / steps
            curve.append(
                tuple(
                    0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t**3)
                    for a, b, c, d in zip(before, start, end, after, strict=True)
                )
            )
    return [*curve, points[-1]]  # type: ignore[list-item]


def _limb(spine: Sequence[tuple[float, float, float]]) -> list[Point]:
    """A soft outline along a spine of points (x, y, half the width): an arm, a leg, a dress."""
    line = _curve([(x, y) for x, y, _ in spine])
    widths = [width for width, _ in _curve([(half, 0.0) for _, _, half in spine])]
    left, right = [], []
    for place, (x, y) in enumerate(line):
        (x1, y1), (x2, y2) = line[max(place - 1, 0)], line[min(place + 1, len(line) - 1)]
        length = math.hypot(x2 - x1, y2 - y1) or 1.0
        across_x, across_y = -(y2 - y1) / length * widths[place], (x2 - x1) / length * widths[place]
        left.append((x + across_x, y + across_y))
        right.append((x - across_x, y - across_y))
    return left + right[::-1]


class _Canvas:
    """An unfinished image. The unit of figures is the head: (0, 0) is above the crown, y 8.4 is the floor."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.size = WIDTH * SCALE, HEIGHT * SCALE
        self.image = Image.new("RGB", self.size)
        self.place(x=0.5, y=0.09, head=0.098)

    def place(self, x: float, y: float, head: float) -> None:
        """Puts the origin at a fraction of the width and height; one head is a fraction of the height."""
        self.left, self.above, self.head = x * self.size[0], y * self.size[1], head * self.size[1]

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(self.left + x * self.head, self.above + y * self.head) for x, y in points]

    def glow(self, centre: Point, radius: Point, colour: Colour, strength: float, blur: float) -> None:
        """A soft ellipse of light or shadow."""
        (x, y), (wide, high) = centre, radius
        corners = self.pixels([(x - wide, y - high), (x + wide, y + high)])
        self.soft(lambda pen, scaled: pen.ellipse(scaled(corners), fill=round(255 * strength)), colour, blur)

    def soft(
        self, shape: Callable[[ImageDraw.ImageDraw, Callable[..., list[float]]], None], colour: Colour, blur: float
    ) -> None:
        """Paints a blurred shape at an eighth of the size: it looks the same and takes a fraction of the time."""
        small = Image.new("L", (self.size[0] // 8, self.size[1] // 8))
        shape(ImageDraw.Draw(small), lambda points: [value / 8 for point in points for value in point])
        blurred = small.filter(ImageFilter.GaussianBlur(blur * self.head / 8))
        self.image.paste(colour, mask=blurred.resize(self.size, Image.Resampling.BILINEAR))

    def cloth(
        self,
        outline: Sequence[Point],
        colour: Colour,
        folds: int = 0,
        pattern: str = "plain",
        accent: Colour = (0, 0, 0),
    ) -> None:
        """Fills ``outline`` with cloth: pattern, folds, a shadow side and a lit rim."""
        points = self.pixels(outline)
        left, above = (math.floor(min(point[axis] for point in points)) - 2 for axis in (0, 1))
        wide, high = (
            math.ceil(max(point[axis] for point in points)) + 2 - low for axis, low in ((0, left), (1, above))
        )
        mask = Image.new("L", (wide, high))
        ImageDraw.Draw(mask).polygon([(x - left, y - above) for x, y in points], fill=255)

        def paint(layer: Image.Image, tint: Colour) -> None:
            self.image.paste(tint, (left, above), ImageChops.multiply(layer, mask))

        paint(mask, colour)
        if pattern != "plain":
            paint(self.print_of(pattern, mask.size), accent)
        if folds:
            paint(self.folds(folds, mask.size), _darker(colour, 0.5))
        away = Image.linear_gradient("L").rotate(90).resize(mask.size)
        paint(away.point([max(0, value - 110) // 2 for value in range(256)]), _darker(colour, 0.75))
        shifted = ImageChops.offset(mask, round(self.head * 0.06), round(self.head * 0.02))
        rim = ImageChops.subtract(mask, shifted).filter(ImageFilter.BoxBlur(self.head * 0.03))
        paint(rim.point([value // 3 for value in range(256)]), _lighter(colour, 0.8))

    def folds(self, count: int, size: tuple[int, int]) -> Image.Image:
        """Strokes that fall from the middle outwards, as cloth hangs from a waist."""
        wide, high = size
        shade = Image.new("L", (wide // 4 + 1, high // 4 + 1))
        pen = ImageDraw.Draw(shade)
        for fold in range(count):
            x = wide * (fold + self.chance.uniform(0.3, 0.9)) / count
            start = wide / 2 + (x - wide / 2) * 0.55, high * self.chance.uniform(0.15, 0.5)
            pen.line([(start[0] / 4, start[1] / 4), (x / 4, high / 4)], fill=130, width=round(self.head * 0.09 / 4))
        return shade.filter(ImageFilter.GaussianBlur(self.head * 0.07 / 4)).resize(size, Image.Resampling.BILINEAR)

    def print_of(self, pattern: str, size: tuple[int, int]) -> Image.Image:
        wide, high = size
        layer = Image.new("L", size)
        pen = ImageDraw.Draw(layer)
        step = round(self.head * 0.27)
        if pattern == "stripes":
            for y in range(0, high, step):
                pen.rectangle([0, y, wide, y + step // 3], fill=225)
        elif pattern == "dots":
            for row, y in enumerate(range(0, high, step)):
                for x in range((row % 2) * step // 2, wide, step):
                    pen.ellipse([x, y, x + step // 3, y + step // 3], fill=225)
        else:
            pen.rectangle([0, high * 0.62, wide, high], fill=255)
        return layer


def _stage(canvas: _Canvas, look: Look, *props: str) -> None:
    """The set: a backdrop that curves into the floor, a light and some objects."""
    canvas.image.paste(look.top, (0, 0, *canvas.size))
    down = Image.linear_gradient("L").resize(canvas.size)
    canvas.image.paste(look.bottom, mask=down.point([round((value / 255) ** 1.6 * 235) for value in range(256)]))
    canvas.glow((-0.6, 3.0), (2.6, 3.2), _lighter(look.top, 0.6), 0.8, 1.0)
    if "arch" in props:
        half_turn = [math.pi * (1 + step / 40) for step in range(41)]
        arch = [(2.3 * math.cos(angle), 2.6 + 2.4 * math.sin(angle)) for angle in half_turn]
        canvas.cloth([(-2.3, 8.0), *arch, (2.3, 8.0)], _mix(look.bottom, look.top, 0.35))
    if "panels" in props:
        for x, tone in ((-2.5, 0.2), (-0.9, 0.4), (0.7, 0.3)):
            panel = [(x, 0.4), (x + 1.5, 0.1), (x + 1.5, 8.0), (x, 8.0)]
            canvas.cloth(panel, _mix(look.top, look.bottom, tone))
    if "sun" in props:
        circle = [(0.9 + 1.75 * math.cos(step / 20), 2.7 + 1.75 * math.sin(step / 20)) for step in range(126)]
        canvas.cloth(circle, _mix(look.accent, look.top, 0.35))
    floor = [canvas.pixels([(0.0, 8.0)])[0], canvas.size]
    canvas.soft(
        lambda pen, scaled: pen.rectangle([-99, *scaled(floor)[1:]], fill=200), _lighter(look.bottom, 0.18), blur=0.25
    )
    if "plinth" in props:
        stone = _mix(look.bottom, look.accent, 0.25)
        vase = _limb([(1.9, 6.0, 0.2), (1.85, 5.5, 0.36), (1.9, 5.0, 0.14), (1.9, 4.85, 0.2)])
        canvas.glow((2.1, 8.3), (1.1, 0.14), _darker(look.bottom, 0.6), 0.6, 0.14)
        canvas.cloth([(1.1, 6.1), (2.6, 6.1), (2.6, 8.3), (1.1, 8.3)], stone)
        canvas.cloth([(1.1, 6.1), (1.4, 5.9), (2.8, 5.9), (2.6, 6.1)], _lighter(stone, 0.35))
        canvas.cloth(vase, look.accent)


def _figure(canvas: _Canvas, look: Look, view: int) -> None:
    """A dressed figure."""
    turn = (1, -1, 0.35, -0.35)[view % 4]  # the shift of the weight: its side and how far
    sway, open_arm = 0.16 * turn, 0.25 + 0.2 * canvas.chance.random()
    step = 0.28 * turn
    skin, limbs = look.skin, _darker(look.skin, 0.06)

    canvas.glow((0.45, 8.38), (1.7, 0.16), _darker(look.bottom, 0.6), 0.75, 0.16)
    trousers = look.cut == "suit"
    for side in (-1, 1):
        foot = side * 0.3 + (step if side * turn < 0 else 0)
        leg = [(sway + side * 0.26, 3.9, 0.3), (sway + side * 0.28, 5.0, 0.27), (side * 0.27 + foot * 0.1, 6.1, 0.19)]
        leg += [(foot, 7.1, 0.17), (foot, 8.05, 0.09)]
        shoe = [(foot - 0.03, 7.95, 0.1), (foot + 0.05 * side, 8.2, 0.13), (foot + 0.18 * side, 8.33, 0.1)]
        canvas.cloth(_limb(leg), limbs)
        canvas.cloth(_limb(shoe), _darker(look.accent, 0.3))
        if trousers:
            flare = [
                (sway + side * 0.24, 3.3, 0.4),
                (sway + side * 0.3, 4.4, 0.42),
                (side * 0.33 + foot * 0.2, 6.2, 0.4),
            ]
            canvas.cloth(_limb([*flare, (foot * 1.05, 8.05, 0.46)]), _darker(look.garment, 0.12), folds=3)

    if look.hairstyle == "long":
        canvas.cloth(_limb([(0, 0.2, 0.3), (0.05, 1.0, 0.5), (0.0, 2.2, 0.46), (0.05, 2.7, 0.2)]), look.hair)
    arms = []
    for side in (-1, 1):
        bent = side * turn > 0
        elbow = (side * (0.92 + open_arm), 2.75)
        hand = (side * 0.62 + sway, 3.35) if bent else (side * (0.95 + open_arm * 0.5), 4.15)
        arms.append([(side * 0.62, 1.68, 0.19), (*elbow, 0.145), (*hand, 0.085)])
        canvas.cloth(_limb(arms[-1]), skin)
    canvas.cloth(_limb([(0, 1.0, 0.15), (0, 1.35, 0.16), (0, 1.7, 0.42)]), _darker(skin, 0.1))

    _clothes(canvas, look, sway, arms)

    canvas.cloth(_limb([(0, 0.12, 0.2), (0, 0.45, 0.34), (0, 0.8, 0.3), (0.0, 1.12, 0.12)]), skin)
    _hair(canvas, look, turn)


def _hair(canvas: _Canvas, look: Look, turn: float) -> None:
    part = 0.08 * turn
    crown = [(-0.36, 0.62), (-0.4, 0.3), (-0.22, 0.0), (0.05, -0.08), (0.3, 0.04), (0.4, 0.32), (0.36, 0.62)]
    fringe = [(0.3, 0.42), (part, 0.3), (-0.3, 0.44)]
    canvas.cloth(_curve([*crown, *fringe, crown[0]]), look.hair)
    if look.hairstyle == "bun":
        canvas.cloth(_limb([(0.02, -0.36, 0.1), (0.02, -0.2, 0.24), (0.02, -0.02, 0.16)]), look.hair)
    elif look.hairstyle in ("bob", "long"):
        for side in (-1, 1):
            strand = [(side * 0.33, 0.35, 0.1), (side * 0.4, 0.8, 0.15), (side * 0.34, 1.18, 0.1)]
            canvas.cloth(_limb(strand), look.hair)


def _clothes(canvas: _Canvas, look: Look, sway: float, arms: Sequence[Sequence[tuple[float, float, float]]]) -> None:
    """The garment of ``look.cut`` on a body whose hips are shifted by ``sway``. For figures and for garments alone."""
    bodice = [(0.0, 1.52, 0.5), (0.0, 1.75, 0.66), (sway * 0.3, 2.3, 0.6), (sway * 0.6, 3.05, 0.46)]
    pattern, accent = look.pattern, look.second

    def sleeves(share: float, colour: Colour) -> None:
        for (x1, y1, _), (x2, y2, _), (x3, y3, _) in arms:
            end = (x2 + (x3 - x2) * share, y2 + (y3 - y2) * share)
            canvas.cloth(_limb([(x1 * 0.92, y1, 0.27), (x2, y2, 0.24), (*end, 0.2)]), colour, folds=2)

    if look.cut in ("dress", "gown"):
        hem, wide = (5.6, 1.0) if look.cut == "dress" else (8.1, 1.55)
        below = [(sway, 3.8, 0.66), (sway * 0.8, (3.8 + hem) / 2, 0.66 + (wide - 0.66) * 0.45), (sway * 0.4, hem, wide)]
        canvas.cloth(_limb([*bodice, *below]), look.garment, 7, pattern, accent)
        belt = [(-0.46, 2.98), (0.46, 2.98), (0.47, 3.14), (-0.47, 3.14)]
        canvas.cloth([(x + sway * 0.6, y) for x, y in belt], look.accent)
    elif look.cut == "skirt":
        below = [(sway * 0.6, 2.95, 0.45), (sway, 3.7, 0.68), (sway * 0.9, 4.8, 0.9), (sway * 0.5, 6.2, 1.25)]
        sleeves(0.2, look.second)
        canvas.cloth(_limb([*bodice, (sway * 0.7, 3.2, 0.48)]), look.second, folds=3)
        canvas.cloth(_limb(below), look.garment, 9, pattern, look.accent)
    else:
        long = look.cut == "coat"
        hem = 6.5 if long else 4.35
        canvas.cloth(_limb([*bodice, (sway, 3.9, 0.62)]), look.second, folds=2)
        if long:
            canvas.cloth(_limb([(sway, 3.0, 0.5), (sway, 4.0, 0.66), (sway, 5.2, 0.8)]), look.accent, 5)
        sleeves(0.85, look.garment)
        for side in (-1, 1):
            front = [(side * 0.46, 1.5), (side * 0.78, 1.66), (side * 0.72, 2.4), (side * 0.66 + sway * 0.6, 3.1)]
            front += [(side * 0.86 + sway, 4.0), (side * (0.98 if long else 0.84) + sway * 0.6, hem)]
            inner = [(side * 0.3 + sway, hem + 0.04), (side * 0.1 + sway * 0.7, 3.2), (side * 0.34, 1.9)]
            canvas.cloth(_curve([*front, *inner, front[0]]), look.garment, 3, pattern if long else "plain", accent)
            lapel = [(side * 0.2, 1.45), (side * 0.5, 1.95), (side * 0.4, 2.15), (side * 0.12 + sway * 0.4, 2.95)]
            canvas.cloth([*lapel, (side * 0.3, 1.9)], _lighter(look.garment, 0.14))


def _model(canvas: _Canvas, look: Look, view: int) -> None:
    _stage(canvas, look, look.prop)
    _figure(canvas, look, view)


def _background(canvas: _Canvas, look: Look, view: int) -> None:
    canvas.place(x=0.5 + 0.06 * (view % 3 - 1), y=0.09, head=0.098 + 0.012 * (view % 2))
    _stage(canvas, look, look.prop if look.prop != "none" else "sun", "plinth")


def _garment(canvas: _Canvas, look: Look, view: int) -> None:
    """The clothes on a hanger before a plain wall."""
    del view
    _stage(canvas, look)
    canvas.place(x=0.5, y=-0.05, head=0.125 if look.cut != "gown" else 0.105)
    hook = canvas.pixels(_curve([(0, 1.5), (0, 1.25), (0.12, 1.15), (0.1, 1.0), (-0.06, 1.02)]))
    pen = ImageDraw.Draw(canvas.image)
    canvas.glow((0.25, 4.4), (1.1, 2.4), _darker(look.bottom, 0.5), 0.5, 0.35)
    pen.line(hook, fill=_darker(look.accent, 0.4), width=round(canvas.head * 0.05), joint="curve")
    pen.line(
        canvas.pixels([(-0.75, 1.75), (0, 1.45), (0.75, 1.75)]),
        fill=_darker(look.accent, 0.4),
        width=round(canvas.head * 0.07),
    )
    hanging = [[(side * 0.62, 1.72, 0.2), (side * 1.02, 2.9, 0.15), (side * 1.1, 4.0, 0.1)] for side in (-1, 1)]
    if look.cut == "suit":
        for side in (-1, 1):
            leg = [(side * 0.25, 3.4, 0.4), (side * 0.34, 5.0, 0.4), (side * 0.42, 6.9, 0.44)]
            canvas.cloth(_limb(leg), _darker(look.garment, 0.12), folds=3)
    _clothes(canvas, look, 0.0, hanging)


def _mask(canvas: _Canvas, look: Look, view: int) -> None:
    """The result of a segmentation step: the figure in white."""
    black, white = (0, 0, 0), (255, 255, 255)
    plain = Look(black, black, white, white, white, white, white, look.cut, look.hairstyle, "plain", "none")
    _figure(canvas, plain, view)
    canvas.image = canvas.image.convert("L").point([255 if value > 40 else 0 for value in range(256)]).convert("RGB")


def _sketch(canvas: _Canvas, look: Look, view: int) -> None:
    """The result of a pose step: the outlines in pencil on paper."""
    paper, pencil = (247, 243, 236), (74, 66, 80)
    canvas.image.paste(paper, (0, 0, *canvas.size))
    _figure(canvas, replace(look, bottom=paper), view)
    edges = canvas.image.convert("L").filter(ImageFilter.BoxBlur(1)).filter(ImageFilter.FIND_EDGES)
    # The filter draws the border of the paper as an edge.
    ImageDraw.Draw(edges).rectangle((0, 0, canvas.size[0] - 1, canvas.size[1] - 1), outline=0, width=8)
    lines = edges.point([min(255, max(0, value - 5) * 24) for value in range(256)]).filter(ImageFilter.BoxBlur(1.2))
    canvas.image.paste(paper, (0, 0, *canvas.size))
    canvas.image.paste(pencil, mask=lines)


_SUBJECTS: dict[Subject, Callable[[_Canvas, Look, int], None]] = {
    "model": _model,
    "garment": _garment,
    "background": _background,
    "mask": _mask,
    "sketch": _sketch,
}
