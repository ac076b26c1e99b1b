"""The video that `predict.py` shows its result on: skeletons over every frame, the best classes below."""

import contextlib
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from common.contact_sheet import fit, font_of
from common.records import FrameSettings
from common.video import frames_of, rate_of, write_mp4
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
    path: Path, video: Path, people: Mapping[int, np.ndarray], bars: Callable[[int], Bars], settings: FrameSettings
) -> None:
    """Encode a video's frames, made with these settings, with skeletons and a panel of classes as MP4.

    `people` maps the number of a frame, from 1, to its people (P, 18, 3); `bars` gives what its panel shows, which must
    be of one height for all.
    """

    def pictures(frames: Iterable[np.ndarray]) -> Iterator[Image.Image]:
        drawn = None
        for number, frame in enumerate(frames, 1):
            if number == 1:
                size = picture_size(*frame.shape[:2])
            shown = bars(number)
            if shown is not drawn:  # following frames mostly share their panel
                drawn, panel = shown, draw_panel(shown, max(size[0], MIN_WIDTH))
            yield compose(frame, people.get(number, ()), panel, size)

    with contextlib.closing(frames_of(video, replace(settings, short_side=None))) as frames:
        write_mp4(path, pictures(frames), rate_of(video, settings))


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
    low, margin, large, small = row // 2, row // 3, round(row * 0.58), round(row * 0.4)
    rows: list[tuple] = []  # height, size of the text, name, probability, colours of the text and of the bar
    for i, (name, probability) in enumerate(bars.top):
        rows.append((row, large, name, probability, TEXT, BEST if bars.answered and not i else OTHERS))
        rows += [(low, small, name, values[i], STREAM, STREAM) for name, values in bars.streams.items()]
    names = [fit(name, size, width // 2) for _, size, name, *_ in rows]
    columns = int((width - 2 * margin) / font_of("", small).getlength("0"))
    notes = [line for note in bars.notes for line in textwrap.wrap(note.replace(" %", "\xa0%"), columns) or [""]]
    below = margin + (row + low * len(bars.streams)) * len(bars.top) + (low // 2 if notes else 0)
    panel = Image.new("RGB", (width, below + low * len(notes) + margin), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    left = 2 * margin + max((round(font.getlength(text)) for text, font in names), default=0)
    right = width - margin - round(font_of("", large).getlength("100.0 %"))
    top = margin
    for (height, size, _, probability, grey, color), (name, font) in zip(rows, names, strict=True):
        middle, half = top + height // 2, height * 3 // 10
        draw.text((margin, middle), name, grey, font, anchor="lm")
        draw.rectangle((left, middle - half, right - margin, middle + half), TRACK)
        filled = round((right - margin - left + 1) * probability)
        if filled:
            draw.rectangle((left, middle - half, left + filled - 1, middle + half), color)
        draw.text((width - margin, middle), f"{100 * probability:.1f} %", grey, font_of("", size), anchor="rm")
        top += height
    for i, note in enumerate(notes):
        line, font = fit(note.replace("\xa0", " "), small, width - 2 * margin)
        draw.text((margin, below + low * i + low // 2), line, NOTE, font, anchor="lm")
    return panel
