"""Places to exercise, play and work in: sports hall, home, park, playing field."""

from collections.abc import Sequence

import numpy as np
from PIL import ImageDraw

from demo_data.scene import (
    Layout,
    Painting,
    blotches,
    clutter,
    planks,
    plant_trees,
    rgb,
    rig,
    shades,
    sky_color,
    some_color,
    tint,
)


def hall(rng: np.random.Generator, layout: Layout) -> Painting:
    """Sports hall: plank floor, wall bars, high windows, mats, things that stand about."""
    corner = layout.ground - rng.integers(15, 60)
    wall, floor = tint(rng, rng.choice([(205, 200, 180), (150, 165, 185), (190, 150, 120)])), tint(rng, (185, 135, 80))
    base = shades(layout, [(0, wall * 0.8), (corner - 1, wall), (corner, floor * 0.75), (layout.height, floor * 1.1)])

    def objects(draw: ImageDraw.ImageDraw):
        planks(draw, rng, layout, corner, rgb(floor * 0.8))
        if rng.uniform() < 0.7:  # wall bars
            for x in rng.uniform(0, layout.width, rng.integers(1, 4)):
                for y in np.arange(corner - 150, corner - 8, 11):
                    draw.line([(x, y), (x + 62, y)], (140, 95, 50), 3)
                for post in (0, 31, 62):
                    draw.line([(x + post, corner - 155), (x + post, corner)], (120, 80, 40), 3)
        if rng.uniform() < 0.6:  # windows high up
            bright, high = tint(rng, (215, 230, 240), 10), rng.uniform(10, 50)
            for x in np.arange(rng.uniform(-40, 20), layout.width, rng.uniform(60, 110)):
                draw.rectangle((x, high, x + 45, high + 50), rgb(bright), rgb(wall * 0.6), 2)
        if rng.uniform() < 0.6:
            draw.rectangle((0, corner - 26, layout.width, corner), some_color(rng))
        if rng.uniform() < 0.5:
            y = layout.ground + rng.uniform(-5, 40)
            draw.line([(0, y), (layout.width, y + rng.uniform(-25, 25))], some_color(rng), 4)
        for x in rng.uniform(-60, layout.width, rng.integers(0, 3)):  # mats
            y = rng.uniform(corner + 6, layout.height - 20)
            draw.polygon([(x, y + 22), (x + 130, y + 22), (x + 110, y), (x + 20, y)], some_color(rng))
        if rng.uniform() < 0.35:
            x = rng.uniform(-30, layout.width)
            draw.rectangle((x, 0, x + rng.uniform(25, 110), corner + 12), rgb(tint(rng, wall * 0.85)))
        if rng.uniform() < 0.4:
            rig(draw, rng, layout)
        clutter(draw, rng, layout, rng.integers(2, 8))

    return base, objects


def home(rng: np.random.Generator, layout: Layout) -> Painting:
    """Room at home: floor, wallpaper, pictures, cupboards, a sofa, a rug."""
    corner = layout.ground - rng.integers(10, 50)
    wall = tint(rng, rng.choice([(215, 205, 190), (170, 190, 170), (200, 170, 170), (150, 150, 175)]))
    floor = tint(rng, rng.choice([(150, 110, 75), (170, 170, 165), (120, 100, 95)]))
    base = shades(layout, [(0, wall), (corner - 1, wall * 0.9), (corner, floor * 0.8), (layout.height, floor * 1.15)])

    def objects(draw: ImageDraw.ImageDraw):
        planks(draw, rng, layout, corner, rgb(floor * 0.75))
        draw.rectangle((0, corner - 6, layout.width, corner), rgb(wall * 0.6))
        for x in rng.uniform(0, layout.width, rng.integers(1, 4)):  # pictures and windows
            y, wide, tall = rng.uniform(20, 80), rng.uniform(25, 75), rng.uniform(25, 85)
            draw.rectangle((x, y, x + wide, y + tall), some_color(rng), rgb(wall * 0.4), 3)
        for x in rng.uniform(-30, layout.width, rng.integers(1, 3)):  # cupboards
            tall, wide, color = rng.uniform(50, 150), rng.uniform(40, 90), tint(rng, (120, 85, 60), 35)
            draw.rectangle((x, corner - tall, x + wide, corner + 5), rgb(color))
            for y in np.arange(corner - tall + 4, corner - 8, 26):
                draw.rectangle((x + 4, y, x + wide - 4, y + 20), rgb(color * 0.8))
        if rng.uniform() < 0.6:  # sofa
            x, color = rng.uniform(-40, layout.width - 60), np.array(some_color(rng))
            draw.rounded_rectangle((x, corner - 45, x + 125, corner + 10), 10, rgb(color * 0.8))
            draw.rounded_rectangle((x - 8, corner - 18, x + 133, corner + 14), 8, rgb(color))
        if rng.uniform() < 0.5:  # rug
            x, y = rng.uniform(0, layout.width - 100), rng.uniform(corner + 12, layout.height - 30)
            draw.ellipse((x, y, x + 190, y + 40), some_color(rng))
        if rng.uniform() < 0.4:
            x = rng.uniform(-30, layout.width)
            draw.rectangle((x, 0, x + rng.uniform(25, 110), corner + 12), rgb(tint(rng, wall * 0.85)))
        clutter(draw, rng, layout, rng.integers(1, 6))

    return base, objects


def _open_air(rng: np.random.Generator, layout: Layout, trees: tuple[int, int], lawn: Sequence[float], built: float):
    far = layout.ground - rng.integers(15, 70)
    sky, grass = sky_color(rng), tint(rng, lawn, 20)
    base = shades(layout, [(0, sky), (far - 1, sky * 0.6 + 95), (far, grass * 0.75), (layout.height, grass * 1.15)])
    base[far:] += 12 * blotches(rng, layout, 5)[far:]

    def objects(draw: ImageDraw.ImageDraw):
        if rng.uniform() < built:
            for x in rng.uniform(-30, layout.width, rng.integers(1, 4)):
                tall, color = rng.uniform(40, 130), tint(rng, (165, 140, 125), 35)
                draw.rectangle((x, far - tall, x + rng.uniform(50, 120), far + 2), rgb(color))
                for y in np.arange(far - tall + 8, far - 12, 22):
                    for dx in (8, 26, 44):
                        draw.rectangle((x + dx - 5, y, x + dx + 5, y + 10), rgb(color * 0.55))
        hedge = tint(rng, (50, 85, 45), 20)
        draw.rectangle((0, far - rng.uniform(4, 30), layout.width, far + 3), rgb(hedge))
        plant_trees(draw, rng, layout, far + 4, rng.integers(*trees))
        return far, grass

    return base, objects


def park(rng: np.random.Generator, layout: Layout) -> Painting:
    """Park: sky, houses, trees, paved ground, a bar on posts."""
    base, outdoors = _open_air(rng, layout, (3, 8), (95, 125, 65), 0.6)

    def objects(draw: ImageDraw.ImageDraw):
        far, grass = outdoors(draw)
        if rng.uniform() < 0.7:  # paved ground
            x, wide = rng.uniform(-0.3, 0.6) * layout.width, rng.uniform(0.4, 1.2) * layout.width
            draw.polygon(
                [
                    (x + 0.3 * wide, far + 3),
                    (x + 0.7 * wide, far + 3),
                    (x + 1.3 * wide, layout.height),
                    (x - 0.3 * wide, layout.height),
                ],
                rgb(tint(rng, (165, 155, 140), 20)),
            )
        if rng.uniform() < 0.55:
            rig(draw, rng, layout)
        clutter(draw, rng, layout, rng.integers(2, 8))

    return base, objects


def field(rng: np.random.Generator, layout: Layout) -> Painting:
    """Playing field: lawn, sky, a fence, bare earth, targets, white lines."""
    base, outdoors = _open_air(rng, layout, (0, 4), (80, 140, 55), 0.2)

    def objects(draw: ImageDraw.ImageDraw):
        far, grass = outdoors(draw)
        if rng.uniform() < 0.5:  # mown stripes
            for y in np.geomspace(6, layout.height - far, 8)[::2]:
                draw.rectangle((0, far + y, layout.width, far + y * 1.4), rgb(grass * 1.12))
        if rng.uniform() < 0.5:  # fence
            color, top = some_color(rng), far - rng.uniform(25, 60)
            for x in np.arange(rng.uniform(0, 20), layout.width, rng.uniform(14, 40)):
                draw.line([(x, top), (x, far + 5)], color)
            draw.line([(0, top), (layout.width, top)], color, 2)
        for x in rng.uniform(-60, layout.width - 40, rng.integers(0, 3)):  # bare earth or sand
            y = rng.uniform(far + 10, layout.height - 20)
            draw.ellipse((x, y, x + rng.uniform(80, 260), y + rng.uniform(15, 40)), rgb(tint(rng, (185, 150, 105))))
        if rng.uniform() < 0.35:  # targets
            for x in rng.uniform(0, layout.width, rng.integers(1, 4)):
                for r, color in ((13, (235, 235, 235)), (9, (60, 110, 200)), (5, (210, 50, 50))):
                    draw.ellipse((x - r, far - 14 - r, x + r, far - 14 + r), color)
        if rng.uniform() < 0.4:
            y = rng.uniform(far + 15, layout.height)
            draw.line([(0, y), (layout.width, y + rng.uniform(-40, 40))], (235, 235, 230), 3)
        clutter(draw, rng, layout, rng.integers(0, 5))

    return base, objects


def links(rng: np.random.Generator, layout: Layout) -> Painting:
    """Golf course: hills, fairways in light and dark greens, sand bunkers, a pond, a flag."""
    base, outdoors = _open_air(rng, layout, (2, 6), (130, 185, 75), 0.0)

    def objects(draw: ImageDraw.ImageDraw):
        far, grass = outdoors(draw)
        for x in np.arange(rng.uniform(-150, -50), layout.width, rng.uniform(90, 160)):  # hills
            tall = rng.uniform(10, 45)
            draw.ellipse((x, far - tall, x + rng.uniform(160, 280), far + tall), rgb(tint(rng, grass * 0.85, 12)))
        for x in rng.uniform(-80, layout.width - 60, rng.integers(2, 6)):  # fairways
            y = rng.uniform(far + 4, layout.height - 30)
            draw.ellipse((x, y, x + rng.uniform(120, 320), y + rng.uniform(15, 45)), rgb(grass * rng.uniform(0.9, 1.2)))
        for x in rng.uniform(-60, layout.width - 40, rng.integers(2, 5)):  # bunkers
            y = rng.uniform(far + 6, layout.height - 20)
            draw.ellipse((x, y, x + rng.uniform(60, 170), y + rng.uniform(10, 28)), rgb(tint(rng, (225, 210, 160))))
        if rng.uniform() < 0.4:  # pond
            x = rng.uniform(-60, layout.width - 60)
            wide, tall = rng.uniform(90, 220), rng.uniform(12, 30)
            draw.ellipse((x, far + 4, x + wide, far + 4 + tall), rgb(tint(rng, (90, 140, 170))))
        if rng.uniform() < 0.7:
            x, foot = rng.uniform(0, layout.width), far + rng.uniform(8, 40)
            draw.line([(x, foot), (x, foot - 42)], (235, 235, 235), 2)
            draw.polygon([(x, foot - 42), (x + 18, foot - 36), (x, foot - 30)], some_color(rng))
        clutter(draw, rng, layout, rng.integers(0, 3))

    return base, objects


def square(rng: np.random.Generator, layout: Layout) -> Painting:
    """Square before a gate or a temple: stone slabs, a wall with a tiled roof, columns, lanterns."""
    base, outdoors = _open_air(rng, layout, (1, 4), (175, 165, 150), 0.0)

    def objects(draw: ImageDraw.ImageDraw):
        far, stone = outdoors(draw)
        planks(draw, rng, layout, far + 3, rgb(stone * 0.75))
        wall, roof = tint(rng, (190, 120, 95), 35), tint(rng, (75, 85, 90), 25)
        tall = rng.uniform(35, 70)
        draw.rectangle((0, far - tall, layout.width, far + 4), rgb(wall))
        for x in np.arange(rng.uniform(0, 40), layout.width, rng.uniform(35, 80)):
            draw.rectangle((x, far - tall, x + 9, far + 4), rgb(wall * 0.6))
        draw.rectangle((0, far - tall - 14, layout.width, far - tall), rgb(roof))
        x, wide = rng.uniform(-30, layout.width - 80), rng.uniform(80, 170)
        eaves, ridge = far - tall - rng.uniform(10, 30), far - tall - rng.uniform(45, 70)
        draw.rectangle((x, eaves, x + wide, far + 4), rgb(wall * 0.8))
        draw.polygon(
            [(x - 22, eaves), (x + wide + 22, eaves), (x + 0.75 * wide, ridge), (x + 0.25 * wide, ridge)],
            rgb(roof * 0.9),
        )
        draw.rectangle((x + 0.4 * wide, far - 0.6 * tall, x + 0.6 * wide, far + 4), rgb(wall * 0.35))
        for left in rng.uniform(0, layout.width, rng.integers(0, 5)):  # lanterns
            draw.ellipse((left, far - tall, left + 12, far - tall + 15), (205, 60, 45))
        clutter(draw, rng, layout, rng.integers(0, 4))

    return base, objects
