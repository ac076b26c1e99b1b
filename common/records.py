"""How images were made of videos: the options, and the record `made.json` in each video's folder.

The record is written last, so that it also tells that the folder is complete. It has what applies of `frames` (a
`FrameSettings` in plain values), `count` (of images), `damage` (of the video, "" for none), `people` and `flow`.
"""

import argparse
import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

from common.atomic import atomic_write
from common.cli import ArgumentGroup, UserError, positive, whole_number

RECORD = "made.json"
ALIKE = 1.1  # ratio of two rates of frames, up to which they count as one


@dataclass(frozen=True)
class FrameSettings:
    """What a video's frames depend on: every n-th one, or `fps` of them a second by time stamps; size; JPEG quality.

    `short_side` is None if not known, `quality` where there is no JPEG, as of frames straight from videos. `rate`: the
    frames made of a second of video, or those that a network was trained on; None if not known.
    """

    every: int = 1
    fps: float | None = None
    short_side: int | None = 256
    quality: int | None = 95
    rate: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        rate = f"fps {self.fps:.10g}" if self.fps else f"every {self.every}"
        rate += f" ({self.rate:.4g} a second)" if self.rate and not self.fps else ""
        return f"{rate}, short side {self.short_side}" + f", quality {self.quality}" * (self.quality is not None)

    def per_second(self, source: Fraction | None = None) -> Fraction:
        """Frames per second made of a video of `source` frames per second; without one, as in training."""
        if self.fps:
            return Fraction(str(self.fps))
        return source / self.every if source else Fraction(str(self.rate or 25 / self.every)).limit_denominator(1001)


def alike(rate: float | None, other: float | None) -> bool:
    """Whether two rates of frames count as one; so does what is not known."""
    return not rate or not other or 1 / ALIKE <= rate / other <= ALIKE


def settings_of(record: dict) -> FrameSettings | None:
    """The settings of a record, or of a checkpoint, whose `frames` hold them; None if there are none."""
    frames = record.get("frames")
    return FrameSettings(**{"short_side": None} | frames) if frames else None


def add_frame_arguments(parser: ArgumentGroup, defaults: FrameSettings | None = None, jpeg: bool = True) -> None:
    """Add the options that `settings_from_arguments` reads to a parser or one of its groups; those of a `jpeg` too."""
    number, known = whole_number(1), asdict(defaults) if defaults else {}
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
    given = args.fps or args.every
    return FrameSettings(
        (args.every or 1) if given else others.every,
        args.fps if given else others.fps,
        args.short_side or others.short_side or FrameSettings().short_side,
        getattr(args, "quality", None) or others.quality,
        None if given else others.rate,
    )


# ---- made.json ----


def read_record(folder: str | os.PathLike) -> dict:
    """What is known of a video's folder; nothing if it has no record, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, RecursionError), open(f"{folder}/{RECORD}", "rb") as file:
        record = json.load(file)
        return record if isinstance(record, dict) else {}
    return {}


def write_record(folder: str | os.PathLike, record: dict) -> None:
    """Keep what is known in a video's folder, as the last of its files."""
    with atomic_write(Path(folder, RECORD), "w") as file:
        file.write(json.dumps({name: value for name, value in record.items() if value is not None}) + "\n")


def root_record(root: str | os.PathLike) -> dict:
    """The first record of a video found below `root`, the folder of frames, pose flow or flow; empty if none has one.

    Its rate of frames is the middle one of up to 64 videos; None where these differ.
    """
    root = Path(root, "u") if Path(root, "u").is_dir() else Path(root)
    records = [record for folder in sample_folders(root) if (record := read_record(folder))]
    first = records[0] if records else {}
    if first.get("frames"):
        first["frames"]["rate"] = common_rate((record.get("frames") or {}).get("rate") for record in records)
    return first


def common_rate(rates: Iterable[float | None]) -> float | None:
    """The middle one of those rates of frames that are known; None where they differ."""
    known = sorted(filter(None, rates))
    return known[len(known) // 2] if known and alike(known[0], known[-1]) else None


def check_made(root: str | os.PathLike, made: dict, before: dict | None = None) -> None:
    """Refuse to add images that are `made` in one way to the folder `root` if its others are known to be otherwise."""
    before = root_record(root) if before is None else before
    for what in made.keys() & before.keys():
        for name, value in (made[what] or {}).items():
            old = before[what].get(name, value)
            if old != value and name != "rate":
                now = f"was made with {name.replace('_', ' ')} = {old}, now it is {value}"
                raise UserError(f"{root}: {now}; remove it, or choose another folder")


def sample_folders(root: str | os.PathLike) -> Iterator[Path]:
    """Folders of videos, `VIDEO` or `CLASS/VIDEO`, one of each of 64 folders below `root`."""
    return (next(folders_in(folder), folder) for folder in islice(folders_in(Path(root)), 64))


def folders_in(folder: Path) -> Iterator[Path]:
    """Folders in a folder but hidden ones, in any order; none if it cannot be listed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from (Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
