"""The video that `predict.py` shows its result on: skeletons over every frame, the best classes below."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from common.video import write_mp4
from fusion.plots import MORE_FONTS
from pose.skeleton import COLORS, DRAWN_LIMBS, LIMB_COLORS

SHORT_SIDE = (480, 1080)  # of the picture: smaller videos are enlarged, larger ones reduced
LONG_SIDE = 1920
MIN_WIDTH = 320
BACKGROUND, TRACK, TEXT = (22, 24, 28), (58, 62, 70), (240, 240, 240)
BEST, OTHERS = (76, 175, 110), (104, 126, 166)


def write_overlay(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    people: Mapping[int, np.ndarray],
    top: Callable[[int], Sequence[tuple[str, float]]],
    rate: Fraction,
) -> None:
    """Encode frames, uint8 (H, W, 3) RGB, with skeletons and a panel of classes as MP4.

    `people` maps the number of a frame, from 1, to its people (P, 18, 3); `top` gives a frame's class names with their
    probabilities, best first, as many for each; `rate` is in frames per second. Raises `UserError` if the encoder
    fails.
    """
    panels = lru_cache(maxsize=1)(draw_panel)  # following frames mostly share theirs

    def pictures() -> Iterator[Image.Image]:
        for number, frame in enumerate(frames, 1):
            if number == 1:
                size = picture_size(*frame.shape[:2])
            panel = panels(tuple(top(number)), max(size[0], MIN_WIDTH))
            yield compose(frame, people.get(number, ()), panel, size)

    write_mp4(path, pictures(), rate)


def picture_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) at which a frame is shown."""
    short, long = sorted((height, width))
    scale = min(min(max(short, SHORT_SIDE[0]), SHORT_SIDE[1]) / short, LONG_SIDE / long)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def compose(frame: np.ndarray, people: Iterable[np.ndarray], panel: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A frame at `size` with its people's skeletons, the panel below; both sides of the result are even."""
    picture = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
    draw_skeletons(picture, people)
    width, height = max(size[0], panel.width), size[1] + panel.height
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
    canvas.paste(picture, ((width - size[0]) // 2, 0))
    canvas.paste(panel, ((width - panel.width) // 2, size[1]))
    return canvas


def draw_skeletons(picture: Image.Image, people: Iterable[np.ndarray]) -> None:
    """Draw limbs and parts of people (P, 18, 3), in the colours of the pose-flow images, onto `picture`."""
    draw = ImageDraw.Draw(picture)
    line = max(round(min(picture.size) / 120), 2)
    for person in people:
        points = (person[:, :2].astype(float) * picture.size).tolist()
        found = (person[:, 2] > 0) & np.isfinite(person).all(axis=1)
        for rim in (1, 0):  # a dark rim keeps them visible on any ground
            for (first, second), color in zip(DRAWN_LIMBS, LIMB_COLORS, strict=True):
                if found[first] and found[second]:
                    ends = (*points[first], *points[second])
                    draw.line(ends, fill=(0, 0, 0) if rim else color, width=line + 2 * rim)
        for (x, y), color, here in zip(points, COLORS, found, strict=True):
            if here:
                draw.ellipse((x - line, y - line, x + line, y + line), fill=color, outline=(0, 0, 0))


# ---- the panel of classes ----


def draw_panel(top: Sequence[tuple[str, float]], width: int) -> Image.Image:
    """A row for each class of `top`: its name, a bar whose length is its probability, and that in percent."""
    row = min(max(width // 20, 24), 44)
    margin, letters = row // 3, round(row * 0.58)
    panel = Image.new("RGB", (width, row * len(top) + 2 * margin), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    percent = ImageFont.truetype(_font_file(""), letters)
    right = width - margin - round(percent.getlength("100.0 %"))
    fonts = [ImageFont.truetype(_font_file(clean(name)), letters) for name, _ in top]
    names = [shorten(clean(name), font, round(width * 0.5)) for (name, _), font in zip(top, fonts, strict=True)]
    left = 2 * margin + round(max(font.getlength(name) for name, font in zip(names, fonts, strict=True)))
    for i, (name, font, (_, probability)) in enumerate(zip(names, fonts, top, strict=True)):
        middle = margin + row * i + row // 2
        box = (left, middle - row * 3 // 10, right - margin, middle + row * 3 // 10)
        draw.text((margin, middle), name, TEXT, font, anchor="lm")
        draw.rectangle(box, TRACK)
        filled = round((box[2] - box[0] + 1) * probability)
        if filled:
            draw.rectangle((left, box[1], left + filled - 1, box[3]), OTHERS if i else BEST)
        draw.text((width - margin, middle), f"{100 * probability:.1f} %", TEXT, percent, anchor="rm")
    return panel


def clean(name: str) -> str:
    """`name` with a question mark for every letter that cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, its end replaced by an ellipsis if it is wider than `width` pixels."""
    ends = (text[:end].rstrip() + "…" for end in range(len(text) - 1, -1, -1))
    return next((short for short in (text, *ends) if font.getlength(short) <= width), "…")


@lru_cache(maxsize=256)
def _font_file(text: str) -> str:
    """A font that has the letters of `text`, or the default one if none is known."""
    default = str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"))
    others = {font.name: font.fname for font in fontManager.ttflist if font.name in MORE_FONTS}
    for file in (default, *(others[name] for name in MORE_FONTS if name in others)):
        with contextlib.suppress(OSError, RuntimeError):
            if {ord(letter) for letter in text} <= FT2Font(file).get_charmap().keys():
                return file
    return default
