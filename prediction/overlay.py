"""The video that `predict.py` shows its result on: skeletons over every frame, the best classes below."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from common.frame_settings import FrameSettings
from common.video import decode_frames, frame_rate, write_mp4
from fusion.plots import MORE_FONTS
from pose.skeleton import COLORS, DRAWN_LIMBS, LIMB_COLORS

SHORT_SIDE = (480, 1080)  # of the picture: smaller videos are enlarged, larger ones reduced
LONG_SIDE = 1920
MIN_WIDTH = 320
BACKGROUND, TRACK, TEXT = (22, 24, 28), (58, 62, 70), (240, 240, 240)
BEST, OTHERS, STREAM, NOTE = (76, 175, 110), (104, 126, 166), (150, 150, 150), (255, 200, 90)


class Bars(NamedTuple):
    """What the panel below the frames shows.

    `top` are class names with their fused probabilities, best first; `streams` each stream's probabilities of these
    classes; `notes` lines of text. The best one is green if it is what is `answered`.
    """

    top: Sequence[tuple[str, float]]
    streams: Mapping[str, Sequence[float]] = {}
    notes: Sequence[str] = ()
    answered: bool = True


def write_overlay(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    people: Mapping[int, np.ndarray],
    bars: Callable[[int], Bars],
    rate: Fraction,
) -> None:
    """Encode frames, uint8 (H, W, 3) RGB, with skeletons and a panel of classes as MP4.

    `people` maps the number of a frame, from 1, to its people (P, 18, 3); `bars` gives what its panel shows, which must
    be of one height for all; `rate` is in frames per second. Raises `UserError` if the encoder fails.
    """

    def pictures() -> Iterator[Image.Image]:
        drawn = None
        for number, frame in enumerate(frames, 1):
            if number == 1:
                size = picture_size(*frame.shape[:2])
            shown = bars(number)
            if shown is not drawn:  # following frames mostly share their panel
                drawn, panel = shown, draw_panel(shown, max(size[0], MIN_WIDTH))
            yield compose(frame, people.get(number, ()), panel, size)

    write_mp4(path, pictures(), rate)


def overlay_video(
    path: str | os.PathLike,
    video: str | os.PathLike,
    people: Mapping[int, np.ndarray],
    bars: Callable[[int], Bars],
    settings: FrameSettings,
) -> None:
    """`write_overlay` of a video file, whose frames, made with these settings, are those that `people` counts."""
    with contextlib.closing(decode_frames(video, settings.every, fps=settings.fps)) as frames:
        write_overlay(path, frames, people, bars, settings.rate(frame_rate(video)))


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


def draw_panel(bars: Bars, width: int) -> Image.Image:
    """A row for each class: its name, a bar whose length is its probability, that in percent; lower ones for streams.

    Below them stand the notes.
    """
    row = min(max(width // 20, 24), 44)
    low, margin = row // 2, row // 3
    large, small = round(row * 0.58), round(row * 0.4)
    notes = [(line, _font(note, small)) for note in map(clean, bars.notes) for line in wrap(note, small, width, margin)]
    block = row + low * len(bars.streams)
    below = margin + block * len(bars.top) + (low // 2 if notes else 0)
    panel = Image.new("RGB", (width, below + low * len(notes) + margin), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    right = width - margin - round(_font("", large).getlength("100.0 %"))
    texts = [(clean(name), large, round(width * 0.5)) for name, _ in bars.top]
    texts += [(stream, small, width) for stream in bars.streams]
    fonts = [_fitting_font(*text) for text in texts]
    widths = [font.getlength(shorten(text, font, limit)) for (text, _, limit), font in zip(texts, fonts, strict=True)]
    left = 2 * margin + max(map(round, widths), default=0)

    def bar(y: int, height: int, name: str, size: int, probability: float, color: tuple[int, int, int]) -> None:
        middle, grey = y + height // 2, TEXT if size == large else STREAM
        font = _fitting_font(name, size, left - 2 * margin)
        box = (left, middle - height * 3 // 10, right - margin, middle + height * 3 // 10)
        draw.text((margin, middle), shorten(name, font, left - 2 * margin), grey, font, anchor="lm")
        draw.rectangle(box, TRACK)
        filled = round((box[2] - box[0] + 1) * probability)
        if filled:
            draw.rectangle((left, box[1], left + filled - 1, box[3]), color)
        draw.text((width - margin, middle), f"{100 * probability:.1f} %", grey, _font("", size), anchor="rm")

    for i, (name, probability) in enumerate(bars.top):
        y = margin + block * i
        bar(y, row, clean(name), large, probability, BEST if bars.answered and not i else OTHERS)
        for j, (stream, values) in enumerate(bars.streams.items()):
            bar(y + row + low * j, low, stream, small, values[i], STREAM)
    for i, (line, font) in enumerate(notes):
        draw.text((margin, below + low * i + low // 2), line, NOTE, font, anchor="lm")
    return panel


def wrap(text: str, size: int, width: int, margin: int) -> list[str]:
    """`text` in lines that are no wider than `width` without its margins, broken between words."""
    font, lines = _font(text, size), [""]
    for word in text.replace(" %", "\xa0%").split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 2 * margin:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shorten(line, font, width - 2 * margin) for line in lines]


def clean(name: str) -> str:
    """`name` with a question mark for every letter that cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, its end replaced by an ellipsis if it is wider than `width` pixels."""
    ends = (text[:end].rstrip() + "…" for end in range(len(text) - 1, -1, -1))
    return next((short for short in (text, *ends) if font.getlength(short) <= width), "…")


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_file(text), size)


def _fitting_font(text: str, size: int, width: int) -> ImageFont.FreeTypeFont:
    """A font in which `text` is no wider than `width`, of `size`, or else smaller, but not below three quarters."""
    for smaller in range(size, size * 3 // 4 - 1, -1):
        font = _font(text, smaller)
        if font.getlength(text) <= width:
            break
    return font


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
