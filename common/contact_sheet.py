"""Contact sheets: pictures with lines of text above them; the fonts of all pictures."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from common.atomic import atomic_write

# The default font, and fonts with Chinese, Japanese and Korean letters on Linux, macOS and Windows.
CJK_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Arial Unicode MS", "Microsoft YaHei")
FONTS = ["DejaVu Sans", *(name for name in CJK_FONTS if name in fontManager.get_font_names())]
COLUMNS, HEIGHT, MAX_WIDTH, GAP, LINE = 3, 180, 320, 10, 20  # all but the first in pixels
COLORS = {"✓": (27, 120, 55), "✗": (178, 24, 43)}


def choose_frames(num_frames: Sequence[int], count: int) -> list[tuple[int, int]]:
    """At most `count` pairs (video, frame number), spread evenly over videos of these numbers of frames."""
    step = max(len(num_frames) / count, 1)
    videos = [int((i + 0.5) * step) for i in range(min(count, len(num_frames)))]
    each = count // len(videos)  # frames of a video
    pairs = [(video, int((i + 0.5) * num_frames[video] / each) + 1) for video in videos for i in range(each)]
    return list(dict.fromkeys(pairs))


def clean(text: str) -> str:
    """`text` with a question mark for every letter that cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@lru_cache(maxsize=256)
def font_of(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first of `FONTS` that has the letters of `text`, or else the first of all, in `size` pixels."""
    files = map(findfont, FONTS)
    fitting = (file for file in files if {ord(letter) for letter in text} <= FT2Font(file).get_charmap().keys())
    return ImageFont.truetype(next(fitting, findfont(FONTS[0])), size)


def fit(text: str, size: int, width: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """`text` and a font in which it is no wider than `width` pixels.

    The font is of `size`, or smaller down to three quarters of it; a text that is still wider ends in an ellipsis.
    """
    text, sizes = clean(text), range(size, size * 3 // 4 - 1, -1)
    fonts = (font_of(text, smaller) for smaller in sizes)
    font = next((font for font in fonts if font.getlength(text) <= width), font_of(text, sizes[-1]))
    shorter = (text[:end].rstrip() + "…" for end in range(len(text) - 1, -1, -1))
    return next((short for short in (text, *shorter) if font.getlength(short) <= width), "…"), font


def write_sheet(path: Path, cells: Sequence[tuple[str, Sequence[np.ndarray | None]]], note: str = "") -> None:
    """Write a PNG of cells: lines of text above uint8 pictures (H, W, 3), all stretched to the shape of the first.

    In place of a picture that is None stands a grey tile. Lines that begin with ✓ are green, with ✗ red. The line
    `note` stands below the cells.
    """
    sizes = []
    for _, pictures in cells:
        height, width = next((picture.shape[:2] for picture in pictures if picture is not None), (3, 4))
        scale = min(HEIGHT / height, MAX_WIDTH / width)
        sizes.append((max(round(width * scale), 1), max(round(height * scale), 1)))
    across = max((len(pictures) for _, pictures in cells), default=1)
    cell_width = max(across * (max(sizes, default=(0, 0))[0] + GAP // 2), MAX_WIDTH)
    head = LINE * max((len(text.splitlines()) for text, _ in cells), default=0)
    columns = max(min(COLUMNS, len(cells)), 1)
    foot = -(-len(cells) // columns) * (head + HEIGHT + GAP) + GAP  # where the note begins
    sheet = Image.new("RGB", (columns * (cell_width + GAP) + GAP, foot + (LINE + GAP if note else 0)), (245, 245, 245))
    draw = ImageDraw.Draw(sheet)

    def write(text: str, left: int, top: int, width: int) -> None:
        short, font = fit(text, 13, width)
        draw.text((left, top), short, fill=COLORS.get(text[:1], (20, 20, 20)), font=font)

    for number, ((text, pictures), size) in enumerate(zip(cells, sizes, strict=True)):
        left = GAP + number % columns * (cell_width + GAP)
        top = GAP + number // columns * (head + HEIGHT + GAP)
        for line, words in enumerate(text.splitlines()):
            write(words, left, top + line * LINE, cell_width)
        for place, picture in enumerate(pictures):
            grey = Image.new("RGB", size, (225, 225, 225))
            tile = grey if picture is None else Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
            sheet.paste(tile, (left + place * (size[0] + GAP // 2), top + head))
    write(note, GAP, foot, sheet.width - 2 * GAP)
    with atomic_write(path) as file:
        sheet.save(file, format="PNG")
