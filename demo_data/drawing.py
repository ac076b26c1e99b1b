"""Draw a clothed figure and its props on an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from demo_data.figure import Body, Prop
from demo_data.scene import some_color

SKINS = ((235, 195, 165), (215, 165, 130), (175, 125, 90), (125, 85, 60), (85, 58, 42))
HAIRS = ((35, 28, 22), (85, 55, 30), (165, 125, 65), (150, 145, 140), (120, 50, 25))


@dataclass(frozen=True)
class Clothes:
    """Colours of a person, and how long sleeves and trousers are."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    shirt: tuple[int, int, int]
    trousers: tuple[int, int, int]
    shoes: tuple[int, int, int]
    sleeves: int  # 0 none, 1 to the elbow, 2 to the wrist
    legs: int


def random_clothes(rng: np.random.Generator, swimwear: bool = False) -> Clothes:
    """Draw what a person wears."""
    skin, hair = (colors[rng.integers(len(colors))] for colors in (SKINS, HAIRS))
    shirt, trousers, shoes = (some_color(rng) for _ in range(3))
    if swimwear:
        return Clothes(skin, hair, skin if rng.uniform() < 0.6 else trousers, trousers, skin, 0, 0)
    return Clothes(skin, hair, shirt, trousers, shoes, int(rng.integers(3)), int(rng.integers(1, 3)))


def draw_figure(
    image: Image.Image,
    points: np.ndarray,
    near: np.ndarray,
    body: Body,
    clothes: Clothes,
    scale: float,
    props: Sequence[tuple[Prop, np.ndarray]] = (),
    floor: int | None = None,
) -> None:
    """Draw on `image`, smoothly: joints (22, 2) in pixels, their nearness (22,), props with points (K, 2).

    Nothing is drawn below row `floor`.
    """
    everything = np.concatenate([points, *(spots for _, spots in props)])
    margin = 0.2 * scale + 3
    left, top = np.maximum(np.floor(everything.min(0) - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(everything.max(0) + margin), image.size).astype(int)
    bottom = bottom if floor is None else min(bottom, floor)
    if right - left < 2 or bottom - top < 2:
        return
    patch = image.crop((left, top, right, bottom))
    patch = patch.resize((patch.width * 2, patch.height * 2), Image.Resampling.NEAREST)
    _paint(
        ImageDraw.Draw(patch),
        2 * (points - (left, top)),
        near,
        body,
        clothes,
        2 * scale,
        [(prop, 2 * (spots - (left, top))) for prop, spots in props],
    )
    image.paste(patch.reduce(2), (left, top))


def draw_prop(draw: ImageDraw.ImageDraw, prop: Prop, spots: np.ndarray, scale: float) -> None:
    """Draw one prop through `spots` (K, 2)."""
    flat = spots.ravel().tolist()
    if prop.filled:
        draw.polygon(flat, prop.color)
    else:
        draw.line(flat, prop.color, max(int(prop.width * scale + 0.5), 1), joint="curve")


def _paint(
    draw: ImageDraw.ImageDraw,
    points: np.ndarray,
    near: np.ndarray,
    body: Body,
    clothes: Clothes,
    scale: float,
    props: Sequence[tuple[Prop, np.ndarray]],
) -> None:
    thick = 0.5 * scale * body.girth
    xy, middle = points.tolist(), near[21] * 0.5 + near[1] * 0.5

    def limb(a: int, b: int, first: float, second: float, color: tuple[int, int, int]):
        _bone(draw, xy[a], xy[b], first * thick, second * thick, color)

    def arm(side: int):
        shoulder = 5 if side else 2
        fade = 0.8 if near[shoulder + 1] < middle else 1.0
        skin, shirt = _shade(clothes.skin, fade), _shade(clothes.shirt, fade * 0.93)
        limb(shoulder, shoulder + 1, 0.11, 0.085, shirt if clothes.sleeves else skin)
        limb(shoulder + 1, shoulder + 2, 0.085, 0.06, shirt if clothes.sleeves == 2 else skin)
        _disc(draw, xy[shoulder + 2], 0.075 * thick, skin)

    def leg(side: int):
        hip = 11 if side else 8
        fade = 0.8 if near[hip + 1] < near[20 - hip] else 1.0
        skin, cloth = _shade(clothes.skin, fade), _shade(clothes.trousers, fade)
        limb(hip, hip + 1, 0.16, 0.12, cloth if clothes.legs else skin)
        if not clothes.legs:
            x, y = xy[hip]
            u, v = xy[hip + 1]
            _bone(draw, (x, y), (x + 0.35 * (u - x), y + 0.35 * (v - y)), 0.165 * thick, 0.15 * thick, cloth)
        limb(hip + 1, hip + 2, 0.12, 0.075, cloth if clothes.legs == 2 else skin)
        limb(hip + 2, 18 + side, 0.09, 0.06, _shade(clothes.shoes, fade))

    def torso():
        for a, b, width in ((2, 5, 0.1), (8, 11, 0.14)):
            limb(a, b, width, width, clothes.shirt if a == 2 else clothes.trousers)
        draw.polygon([*xy[2], *xy[5], *xy[11], *xy[8]], clothes.shirt)
        _bone(draw, xy[1], xy[21], 0.2 * thick, 0.16 * thick, clothes.shirt)
        limb(8, 11, 0.14, 0.14, clothes.trousers)

    def head():
        radius = body.head * scale
        limb(1, 20, 0.1, 0.1, clothes.skin)
        _disc(draw, xy[20], 1.12 * radius, clothes.hair)
        look = (points[0] - points[20]) * (0.5 if near[0] > near[20] else 0.9)
        if near[0] > near[20] - 0.6 * body.head:
            _disc(draw, (points[20] + look).tolist(), 0.82 * radius, clothes.skin)
            for eye in (14, 15):
                if near[eye] > near[20] + 0.3 * body.head:
                    _disc(draw, xy[eye], 0.14 * radius, (30, 25, 25))

    parts = [(near[elbow], arm, side) for side, elbow in enumerate((3, 6))]
    parts += [(near[knee] - 0.02, leg, side) for side, knee in enumerate((9, 12))]
    parts.sort(key=lambda part: part[0])
    for prop, spots in props:
        if prop.width > 0.05 and not prop.filled:
            draw_prop(draw, prop, spots, scale)
    for depth, part, side in parts:
        if depth < middle:
            part(side)
    torso()
    head()
    for depth, part, side in parts:
        if depth >= middle:
            part(side)
    for prop, spots in props:
        if prop.width <= 0.05 or prop.filled:
            draw_prop(draw, prop, spots, scale)


def _bone(
    draw: ImageDraw.ImageDraw,
    a: Sequence[float],
    b: Sequence[float],
    first: float,
    second: float,
    color: tuple[int, int, int],
) -> None:
    """A tapered bar with round ends; widths are radii in pixels."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = (dx * dx + dy * dy) ** 0.5
    _disc(draw, a, first, color)
    _disc(draw, b, second, color)
    if length > 0.5:
        nx, ny = -dy / length, dx / length
        draw.polygon(
            (
                a[0] + nx * first,
                a[1] + ny * first,
                b[0] + nx * second,
                b[1] + ny * second,
                b[0] - nx * second,
                b[1] - ny * second,
                a[0] - nx * first,
                a[1] - ny * first,
            ),
            color,
        )


def _disc(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, color: tuple[int, int, int]) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)


def _shade(color: tuple[int, int, int], fade: float) -> tuple[int, int, int]:
    return int(color[0] * fade), int(color[1] * fade), int(color[2] * fade)
