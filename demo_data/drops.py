"""Places with a way down: swimming pool, sea cliff, ski slope."""

import numpy as np
from PIL import ImageDraw

from demo_data.scene import Layout, Painting, blotches, clutter, rgb, shades, sky_color, some_color, tint


def pool(rng: np.random.Generator, layout: Layout) -> Painting:
    """Indoor or open-air pool: stands, a tower with platforms, lanes on the water."""
    x, y = layout.edge
    wall = tint(rng, rng.choice([(195, 200, 200), (150, 170, 190), (185, 175, 160)]))
    water = tint(rng, (60, 145, 185), 22)
    base = shades(
        layout,
        [
            (0, wall),
            (layout.water - 14, wall * 0.8),
            (layout.water - 13, (205, 205, 195)),
            (layout.water - 1, (185, 185, 180)),
            (layout.water, water * 0.85),
            (layout.height, water),
        ],
    )
    base[layout.water :] += 14 * blotches(rng, layout, 6)[layout.water :]

    def objects(draw: ImageDraw.ImageDraw):
        for top in np.arange(rng.uniform(10, 60), layout.water - 60, rng.uniform(60, 110)):  # windows or banners
            color = some_color(rng) if rng.uniform() < 0.3 else rgb(tint(rng, (215, 230, 240), 12))
            for left in np.arange(rng.uniform(-30, 10), layout.width, rng.uniform(50, 120)):
                draw.rectangle((left, top, left + 38, top + rng.uniform(20, 45)), color)
        if rng.uniform() < 0.6:  # spectators
            for row in range(rng.integers(1, 4)):
                for left in np.arange(rng.uniform(0, 12), layout.width, rng.uniform(9, 14)):
                    top = layout.water - 38 - 16 * row
                    draw.ellipse((left, top, left + 6, top + 7), rgb(tint(rng, (190, 150, 120), 30)))
                    draw.rectangle((left - 2, top + 7, left + 8, top + 16), some_color(rng))
        concrete = tint(rng, (170, 170, 170), 25)
        side = layout.width if x > layout.width / 2 else 0
        draw.rectangle((min(x, side), y, max(x, side), y + 9), rgb(concrete))
        post = x + (side - x) * rng.uniform(0.3, 0.7)
        draw.rectangle((post - 11, y, post + 11, layout.water), rgb(concrete * 0.85))
        for lane in np.geomspace(12, max(layout.height - layout.water, 13), 4):
            if rng.uniform() < 0.7:
                draw.line([(0, layout.water + lane), (layout.width, layout.water + lane)], some_color(rng), 2)

    return base, objects


def cliff(rng: np.random.Generator, layout: Layout) -> Painting:
    """Rocks above the sea, sky and a far coast."""
    x, y = layout.edge
    sky, sea = sky_color(rng), tint(rng, (45, 110, 135), 25)
    far = layout.water - rng.integers(15, 120)
    base = shades(
        layout, [(0, sky), (far - 1, sky * 0.6 + 95), (far, sea), (layout.water, sea * 0.9), (layout.height, sea * 0.8)]
    )
    base[far:] += 16 * blotches(rng, layout, 7)[far:]

    def objects(draw: ImageDraw.ImageDraw):
        if rng.uniform() < 0.6:
            peaks = [(px, far - rng.uniform(5, 60)) for px in np.linspace(0, layout.width, 7)]
            draw.polygon([(0, far), *peaks, (layout.width, far)], rgb(tint(rng, (110, 120, 105), 25)))
        side = layout.width + 5 if x > layout.width / 2 else -5
        rock = tint(rng, rng.choice([(135, 115, 90), (120, 120, 118), (165, 140, 110)]))
        sign = 1 if side > x else -1
        rows = np.linspace(y, layout.height, 12)
        face = [(x + sign * rng.uniform(3, 22) - sign * 6 * (row > layout.water), row) for row in rows[1:]]
        draw.polygon([(x, y), *face, (side, layout.height), (side, y - rng.uniform(0, 12))], rgb(rock))
        for _ in range(26):  # ledges and cracks
            px, py, size = x + sign * rng.uniform(20, 160), rng.uniform(y + 6, layout.height), rng.uniform(8, 40)
            draw.polygon(
                [(px, py), (px + size, py + size * rng.uniform(-0.3, 0.5)), (px + size * 0.6, py + size)],
                rgb(tint(rng, rock * rng.uniform(0.65, 1.15), 8)),
            )
        draw.line([(x, y), (side, y)], rgb(tint(rng, (85, 105, 60), 25)), 4)

    return base, objects


def snow(rng: np.random.Generator, layout: Layout) -> Painting:
    """Ski slope: snow, mountains, firs, gates."""
    far = layout.ground - rng.integers(50, 130)
    sky, white = sky_color(rng), tint(rng, (222, 228, 238), 14)
    base = shades(layout, [(0, sky), (far - 1, sky * 0.6 + 95), (far, white * 0.9), (layout.height, white)])
    base[far:] += 7 * blotches(rng, layout, 22)[far:]

    def objects(draw: ImageDraw.ImageDraw):
        peaks = [(px, far - rng.uniform(0, 75)) for px in np.linspace(0, layout.width, 11)]
        draw.polygon([(0, far + 2), *peaks, (layout.width, far + 2)], rgb(tint(rng, (150, 160, 180), 25)))
        for px in rng.uniform(0, layout.width, rng.integers(3, 26)):
            foot, size, green = far + rng.uniform(0, 45), rng.uniform(16, 60), tint(rng, (45, 75, 60), 18)
            for level in (0.0, 0.3, 0.6):
                wide = size * 0.3 * (1 - level)
                draw.polygon(
                    [
                        (px - wide, foot - level * size),
                        (px + wide, foot - level * size),
                        (px, foot - (level + 0.5) * size),
                    ],
                    rgb(green),
                )
        for _ in range(rng.integers(2, 12)):  # tracks
            px, slant = rng.uniform(0, layout.width), rng.uniform(-140, 140)
            draw.line([(px, far + 8), (px + slant, layout.height)], rgb(white * 0.88), 2)
        for px in rng.uniform(0, layout.width, rng.integers(0, 6)):  # gates
            foot = rng.uniform(far + 15, layout.ground + 30)
            draw.line([(px, foot), (px, foot - 45)], some_color(rng), 3)
        clutter(draw, rng, layout, rng.integers(0, 3))

    return base, objects
