"""Backgrounds: painted places, each instance with colours, clutter and a layout of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


@dataclass(frozen=True)
class Layout:
    """What a place must fit: its size in pixels, the line that figures stand on, an edge and a water line."""

    width: int
    height: int
    ground: int  # row on which the feet stand
    edge: tuple[int, int] | None = None  # column and row of the brink of a platform or cliff
    water: int | None = None  # row of the water's surface


# A base (H, W, 3), and what draws the things on it.
Painting = tuple[np.ndarray, Callable[[ImageDraw.ImageDraw], object]]
Place = Callable[[np.random.Generator, Layout], Painting]


def blotches(rng: np.random.Generator, layout: Layout, cell: int) -> np.ndarray:
    """Smooth random field (H, W, 1) between about -1 and 1, its lumps `cell` pixels wide."""
    small = rng.uniform(-1, 1, (layout.height // cell + 3, layout.width // cell + 3)).astype(np.float32)
    size = (layout.width, layout.height)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))[..., None]


def shades(layout: Layout, stops: Sequence[tuple]) -> np.ndarray:
    """Vertical colour gradient (H, W, 3) through `stops`, pairs of a row and a colour."""
    rows, colors = zip(*stops, strict=True)
    y = np.arange(layout.height)
    column = np.stack([np.interp(y, rows, channel) for channel in np.array(colors, float).T], -1)
    return np.repeat(column[:, None], layout.width, 1)


def tint(rng: np.random.Generator, color: Sequence[float] | np.ndarray, spread: float = 18) -> np.ndarray:
    """A colour near `color`, (3,)."""
    return np.clip(np.asarray(color, float) + rng.uniform(-spread, spread) + rng.uniform(-spread, spread, 3), 5, 250)


def paint(place: Place, rng: np.random.Generator, layout: Layout) -> Image.Image:
    """RGB image of a place, a function of `rng` and layout that gives a base (H, W, 3) and how to draw on it."""
    base, objects = place(rng, layout)
    grain = 5 * blotches(rng, layout, 40) + 5 * blotches(rng, layout, 7) + rng.normal(0, 3, base.shape[:2] + (1,))
    image = Image.fromarray(np.clip(base + grain, 0, 255).astype(np.uint8))
    objects(ImageDraw.Draw(image))
    return image.filter(ImageFilter.BoxBlur(0.5))


def rgb(color: Sequence[float] | np.ndarray) -> tuple[int, int, int]:
    """Colour as PIL takes it."""
    red, green, blue = (int(c) for c in color)
    return red, green, blue


def some_color(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour."""
    return rgb(rng.uniform(30, 230, 3))


def clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator, layout: Layout, count: int) -> None:
    """Things that stand about: boxes, balls, benches, posts, mats."""
    horizon = layout.ground - rng.integers(12, 40)
    for _ in range(count):
        x, y, size = rng.uniform(0, layout.width), rng.uniform(horizon, layout.ground + 30), rng.uniform(10, 34)
        color, shape = some_color(rng), rng.integers(5)
        if shape == 0:
            draw.rectangle((x, y - size, x + size * rng.uniform(0.6, 1.6), y), color)
        elif shape == 1:
            draw.ellipse((x, y - size * 0.6, x + size * 0.6, y), color)
        elif shape == 2:
            draw.rectangle((x, y - size * 0.5, x + 2.2 * size, y - size * 0.36), color)
            draw.line([(x + 4, y - size * 0.4), (x + 4, y)], color, 3)
            draw.line([(x + 2 * size, y - size * 0.4), (x + 2 * size, y)], color, 3)
        elif shape == 3:
            draw.line([(x, y), (x, y - 4 * size)], color, int(rng.integers(2, 6)))
        else:
            top = y - size * 0.3
            draw.polygon([(x, y), (x + 2 * size, y), (x + 2.4 * size, top), (x + 0.4 * size, top)], color)


def rig(draw: ImageDraw.ImageDraw, rng: np.random.Generator, layout: Layout) -> None:
    """A bar on two posts, for those who hang from it; others walk past."""
    x, wide, top = rng.uniform(-40, layout.width - 60), rng.uniform(60, 160), layout.ground - rng.uniform(130, 190)
    color = some_color(rng)
    draw.line(
        [(x, layout.ground - 8), (x, top), (x + wide, top), (x + wide, layout.ground - 8)],
        color,
        int(rng.integers(3, 7)),
    )


def planks(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, layout: Layout, top: float, color: Sequence[float] | np.ndarray
) -> None:
    """Boards of a floor, running away from us."""
    middle = rng.uniform(0.2, 0.8) * layout.width
    for x in np.arange(-3 * layout.width, 4 * layout.width, rng.uniform(40, 110)):
        draw.line([(middle + (x - middle) * 0.45, top), (x, layout.height)], color)
    if rng.uniform() < 0.4:
        for y in np.geomspace(8, layout.height - top, 7):
            draw.line([(0, top + y), (layout.width, top + y)], color)


def plant_trees(draw: ImageDraw.ImageDraw, rng: np.random.Generator, layout: Layout, foot: float, count: int) -> None:
    """Trees that stand around row `foot`."""
    for x in rng.uniform(-20, layout.width + 20, count):
        size, green = rng.uniform(30, 75), tint(rng, (55, 100, 45), 25)
        draw.line([(x, foot + rng.uniform(0, 12)), (x, foot - size * 1.3)], rgb(tint(rng, (90, 65, 45))), int(size / 7))
        for dx, dy, r in rng.uniform((-0.5, -2.1, 0.3), (0.5, -0.9, 0.6), (6, 3)) * size:
            draw.ellipse((x + dx - r, foot + dy - r, x + dx + r, foot + dy + r), rgb(tint(rng, green, 10)))


def sky_color(rng: np.random.Generator) -> np.ndarray:
    """A clear or a cloudy sky, (3,)."""
    return tint(rng, rng.choice([(120, 165, 220), (190, 200, 210), (150, 180, 215)]), 14)
