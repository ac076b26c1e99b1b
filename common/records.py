"""How frames are made of videos: options, and the record kept beside frames, pose flow and in checkpoints."""

import argparse
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from common.atomic import atomic_write
from common.cli import ArgumentGroup, UserError, positive, whole_number

RECORD = "frame_settings.json"
# In the comment of a video's first frame: settings, damage, count.
NOTE = re.compile(r"Frames: (.*?)(?:; (.*))?\n(?:Count: (\d+)\n)?")
DESCRIPTION = re.compile(r"(?:every (\d+)|fps ([\d.]+)), short side (\d+), quality (\d+)")


class FrameSettings(NamedTuple):
    """What a video's frames depend on: every n-th one, or `fps` of them a second by time stamps; size; JPEG quality."""

    every: int = 1
    fps: float | None = None
    short_side: int = 256
    quality: int | None = 95  # None: no JPEG, as where frames come straight from videos

    def __str__(self) -> str:
        rate = f"fps {self.fps:.10g}" if self.fps else f"every {self.every}"
        return f"{rate}, short side {self.short_side}" + f", quality {self.quality}" * (self.quality is not None)

    def rate(self, source: Fraction = Fraction(25)) -> Fraction:
        """Frames per second made of a video of `source` frames per second."""
        return Fraction(str(self.fps)) if self.fps else source / self.every


def parse_settings(description: str) -> FrameSettings | None:
    """The settings that `str` wrote; None if it is no such text."""
    match = DESCRIPTION.fullmatch(description)
    if not match:
        return None
    every, fps, short_side, quality = match.groups()
    return FrameSettings(int(every or 1), float(fps) if fps else None, int(short_side), int(quality))


def add_frame_arguments(parser: ArgumentGroup, defaults: FrameSettings | None = None, jpeg: bool = True) -> None:
    """Add the options that `settings_from_arguments` reads to a parser or one of its groups; those of a `jpeg` too."""
    number, known = whole_number(1), defaults._asdict() if defaults else {}
    add = parser.add_mutually_exclusive_group().add_argument
    add("--every", type=number, default=known.get("every"), metavar="N", help="keep frames 1, 1+N, 1+2N, …")
    text = "or N frames a second by time stamps, the nearest frame each (repeated where the video has fewer)"
    add("--fps", type=positive, metavar="N", help=text)
    add = parser.add_argument
    text = "scale to this short side, the other to match"
    add("--short-side", type=number, default=known.get("short_side"), metavar="PIXELS", help=text)
    if jpeg:
        add("--quality", type=whole_number(1, 100), default=known.get("quality"), metavar="1-100", help="JPEG quality")


def settings_from_arguments(args: argparse.Namespace, others: FrameSettings | None = None) -> FrameSettings:
    """The settings that the options give, what they leave open as in `others`."""
    others = others or FrameSettings()
    every, fps = (1, args.fps) if args.fps else (args.every, None) if args.every else others[:2]
    return FrameSettings(
        every, fps, args.short_side or others.short_side, getattr(args, "quality", None) or others.quality
    )


# ---- the record beside images ----


def read_frame_settings(root: Path) -> FrameSettings | None:
    """What the record in `root` says; None if there is none. Raises `UserError` if it is damaged."""
    path = Path(root, RECORD)
    try:
        return FrameSettings(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it if all frames were made alike") from None


def check_frame_settings(root: Path, before: FrameSettings | None, settings: FrameSettings) -> None:
    """Raise `UserError` if the images in `root` are known to be of frames made with other settings, `before`."""
    if before not in (None, settings):
        made = f"its frames were made with {before}, now it is {settings}"
        raise UserError(f"{root}: {made}; remove it or choose another folder")


def keep_frame_settings(root: Path, settings: FrameSettings) -> None:
    """Write the record of `root` unless it is there."""
    if not Path(root, RECORD).exists():
        with atomic_write(Path(root, RECORD), "w") as file:
            file.write(json.dumps(settings._asdict(), indent=1) + "\n")
