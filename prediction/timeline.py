"""What happens in a long video, and when: windows of it are tested as videos are, in one pass over its frames."""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator
from tqdm import tqdm

from common.atomic import atomic_write
from common.cli import UserError, print_table
from common.contact_sheet import clean
from common.video import duration, frames_of, rate_of, through_jpeg
from dataloader.names import stem
from fusion.plots import printable, write_png
from pose.estimators import Estimator
from pose.keypoints import Keypoints
from prediction.classify import (
    BAR,
    NOBODY_IN_VIEW,
    THREADS,
    Classifier,
    Fusion,
    check_num_frames,
    describe,
    look,
    score,
    window_of_keypoints,
)
from prediction.overlay import Bars
from training.streams import Window

Item = TypeVar("Item")
MINIMUM = 0.3  # probability of a winner where validation videos chose no threshold: well above chance, no more
NONE, NOBODY = -1, -2  # in place of a class: none is probable enough; nobody is in view, and all streams are of poses
NAMES = {NONE: "none", NOBODY: NOBODY_IN_VIEW}
SUFFIXES = (".png", ".csv", ".json", ".srt")
COLORS = ("#1f77b4", "#e6550d", "#2ca02c", "#c2185b", "#7b5fb5", "#8c564b", "#17a2b8", "#b8a500")
REST = "#9a9a9a"
OTHER: dict[str, Any] = {"color": REST, "linewidth": 0}
POINTS = 240  # of a line
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds between ticks
TICKS = 14
BAND = 10.5  # inches across
WITHOUT_CLASS: dict[int, dict[str, Any]] = {
    NONE: {"color": "#ececec", "linewidth": 0},
    NOBODY: {"facecolor": "white", "edgecolor": "#b0b0b0", "hatch": "////", "linewidth": 0},
}


class Plan(NamedTuple):
    """Windows of `length` seconds that start every `stride` seconds."""

    length: float = 4
    stride: float = 1


@dataclass(frozen=True)
class Timeline:
    """The scores of a video's W windows, in order of time.

    spans: int64 (W, 2), the first frame of each window, counted from 0, and the one after its last.
    probabilities: float32 (W, classes), of the fused logits; NaN where nobody is in view, and all streams are of poses.
    people: float32 (W,), the share of the frames searched for people that show some; NaN where none was searched.
    logits: float32 (classes,) by stream, means over the windows that it counts in. shown: by the number of each frame
    that was searched, from 1, whether it shows somebody. poses: the people of each frame, as the window that it belongs
    to sees them (only with `Options.every_pose`). damage: what of the file could not be decoded. minimum: the
    probability below which a window's likeliest class is `NONE`.
    """

    classes: Sequence[str]
    minimum: float

    rate: Fraction  # frames per second
    num_frames: int
    spans: np.ndarray
    probabilities: np.ndarray
    people: np.ndarray
    logits: dict[str, np.ndarray]
    shown: dict[int, bool]
    poses: dict[int, np.ndarray]
    damage: str


def window_starts(plan: Plan, rate: Fraction, every: int = 1) -> Iterator[int]:
    """The first frames, from 0, of the windows at 0, stride, 2 · stride … seconds, without end.

    They are rounded to multiples of `every`: where every n-th frame's people are found, windows share these frames.
    """
    step = max(Fraction(str(plan.stride)) * rate / every, Fraction(1))
    return (every * round(number * step) for number in count())


def windows_of(items: Iterable[Item], length: int, starts: Iterator[int]) -> Iterator[tuple[int, list[Item]]]:
    """Yield the start and the items of each window of `length`; the last one, shorter if need be, ends where they end.

    `starts` are increasing. No more than `length` items are held.
    """
    held, start, covered, number = deque(maxlen=length), next(starts), 0, 0
    for number, item in enumerate(items, 1):
        held.append(item)
        if number == start + length:
            yield start, list(held)
            start, covered = next(starts), number
    if covered < number:
        yield number - len(held), list(held)


def classify_windows(path: Path, classifier: Classifier, plan: Plan) -> Timeline:
    """Test the streams on windows of a video file, and fuse them.

    A window is scored as a file of its frames alone would be: people are followed, cleaned and interpolated within it.
    Each frame is decoded once, and its people are found once. Only one window's frames are in memory. Windows are
    counted in frames: seconds are frames divided by the rate, that of the file where it is constant, or
    `FrameSettings.fps`. A file that ends early keeps what came before.
    """
    _, fusion, source, options = classifier
    damage: list[str] = []
    shown, poses, rows = {}, {}, []
    with closing(frames_of(path, options.frames, THREADS, damage)) as pictures:
        first = next(pictures)
        rate, seconds = rate_of(path, options.frames), duration(path)
        length = max(round(Fraction(str(plan.length)) * rate), 1)
        starts = window_starts(plan, rate, options.estimate_every if isinstance(source, Estimator) else 1)
        total = round(seconds * rate) if seconds else None
        frames = tqdm(chain([first], _until_error(pictures, damage)), stem(path.name), total, **BAR)
        prepared = (through_jpeg(rgb, options.frames.quality) for rgb in frames)
        for start, window in _look_at_windows(windows_of(prepared, length, starts), classifier):
            span, logits = (start, start + window.num_frames), score(window, classifier)
            border = (sum(rows[-1][0]) + sum(span)) / 4 if rows else 0
            share = sum(window.shown.values()) / len(window.people) if window.people else np.nan
            rows.append((span, fusion.fuse(logits)[1], share, logits))
            shown |= {start + n: seen or shown.get(start + n, False) for n, seen in window.shown.items()}
            if options.every_pose:
                poses |= {start + n: people for n, people in window.people.items() if start + n - 0.5 >= border}
    spans, probabilities, shares, scores = zip(*rows, strict=True)
    num_frames = spans[-1][1]
    if isinstance(source, Keypoints):
        check_num_frames(source, num_frames)
    if num_frames < length:
        shorter = f"shorter than a window of {plan.length:g} s: one window of all its {float(num_frames / rate):.2f} s"
        print(f"{path}: {shorter}", file=sys.stderr)
    known = {name: [logits[name] for logits in scores if name in logits] for name in fusion.calibrations}
    means = {name: np.stack(values).mean(0, np.float64).astype(np.float32) for name, values in known.items() if values}
    threshold = fusion.calibration.threshold
    minimum = MINIMUM if threshold is None else threshold
    arrays = np.array(spans, np.int64), np.stack(probabilities).astype(np.float32), np.array(shares, np.float32)
    return Timeline(fusion.classes, minimum, rate, num_frames, *arrays, means, shown, poses, "; ".join(damage))


def _until_error(pictures: Iterator[np.ndarray], damage: list[str]) -> Iterator[np.ndarray]:
    try:
        yield from pictures
    except UserError as error:
        damage.append(str(error))


def _look_at_windows(
    windows: Iterable[tuple[int, list[np.ndarray]]], classifier: Classifier
) -> Iterator[tuple[int, Window]]:
    """Yield starts and windows of frames; people that a window before has found are not searched again."""
    found: dict[int, np.ndarray] = {}
    for start, frames in windows:
        if isinstance(classifier.people, Keypoints):
            window = window_of_keypoints(classifier.people, start, len(frames))
        else:
            found = {number: people for number, people in found.items() if number > start}
            known = {number - start: people for number, people in found.items()}
            window = Window(len(frames), {}, known, frames[0].shape[:2])
        raw = look(window, partial(map, dict(enumerate(frames, 1)).__getitem__), classifier)
        found |= {start + number: people for number, people in raw.items()}
        yield start, window


# ---- segments ----


class Segment(NamedTuple):
    """Following windows with one winner: `label` is a class or in `NAMES`; `start` and `end` are in seconds.

    `probability` is the mean of the class's; of `NONE`, of the likeliest class's, whichever it was; else NaN.
    """

    start: float
    end: float
    label: int
    probability: float


def borders(timeline: Timeline) -> np.ndarray:
    """Where the time of one window ends and the next one's begins, float64 (W + 1,) in seconds.

    A moment belongs to the window whose centre is nearest.
    """
    centres = timeline.spans.mean(axis=1)
    between = (centres[1:] + centres[:-1]) / 2
    return np.concatenate(([0], between, [timeline.num_frames])) / float(timeline.rate)


def winners(timeline: Timeline) -> np.ndarray:
    """The likeliest class of each window, int64 (W,); or `NONE` or `NOBODY`."""
    nobody = np.isnan(timeline.probabilities).any(axis=1)
    known = np.where(nobody[:, None], 0, timeline.probabilities)
    return np.where(nobody, NOBODY, np.where(known.max(axis=1) < timeline.minimum, NONE, known.argmax(axis=1)))


def segments(timeline: Timeline) -> list[Segment]:
    """Neighbouring windows of one winner, joined; together they cover the whole video."""
    labels, edges = winners(timeline), borders(timeline)
    firsts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    found = []
    for first, end in zip(firsts[:-1], firsts[1:], strict=True):
        label, part = int(labels[first]), timeline.probabilities[first:end]
        values = part[:, label] if label >= 0 else part.max(axis=1)
        found.append(Segment(float(edges[first]), float(edges[end]), label, float(values.mean())))
    return found


def label_name(label: int, classes: Sequence[str]) -> str:
    """What a segment's label is called."""
    return NAMES.get(label) or classes[label]


def bars_of_frames(timeline: Timeline, count: int) -> Callable[[int], Bars]:
    """A function from a frame's number, from 1, to what the overlay shows: the `count` likeliest classes, best first.

    They are those of the window that the frame belongs to; where nobody is in view, that as many times.
    """
    inner = borders(timeline)[1:-1] * float(timeline.rate)
    labels = winners(timeline)

    @lru_cache(maxsize=1)
    def of_window(number: int) -> Bars:
        probabilities, label = timeline.probabilities[number], labels[number]
        order = np.argsort(-probabilities, kind="stable")[:count]
        if label == NOBODY:
            return Bars([(NOBODY_IN_VIEW, 0.0)] * len(order), notes=[""], answered=False)
        top = [(timeline.classes[label], float(probabilities[label])) for label in order]
        return Bars(top, notes=["none of these" * bool(label == NONE)], answered=label != NONE)

    return lambda number: of_window(int(np.searchsorted(inner, number - 0.5, side="right")))


# ---- files ----


def describe_timeline(timeline: Timeline, fusion: Fusion) -> dict:
    """Plain values as `classify.describe` gives, scores being means over the windows, and segments for the answer."""
    result = describe(timeline, fusion._replace(threshold=0))
    del result["answer"]
    return result | {"segments": _plain_segments(timeline)}


def _plain_segments(timeline: Timeline) -> list[dict]:
    return [
        {
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "class": label_name(segment.label, timeline.classes),
            "probability": _rounded(segment.probability, 4),
        }
        for segment in segments(timeline)
    ]


def _rounded(value: float, digits: int) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)


def print_segments(found: Sequence[dict]) -> None:
    """Print when what happens, segments of `describe_timeline`."""
    rows = []
    for part in found:
        percent = "" if part["probability"] is None else f"{100 * part['probability']:.1f}"
        rows.append((f"  {part['class']}", clock(part["start"], 1), clock(part["end"], 1), percent))
    print_table(("  segment", "from", "to", "probability, %"), rows)


def write_timeline(path: Path, timeline: Timeline, title: str) -> None:
    """Write the picture `path`, and beside it .csv and .json with the windows and .srt with the segments."""
    found, rate = segments(timeline), float(timeline.rate)
    plot_timeline(path, timeline, found, title)
    windows, values = [], []
    for (first, end), people, label, row in zip(
        timeline.spans, timeline.people, winners(timeline), timeline.probabilities, strict=True
    ):
        window = {"start": round(first / rate, 3), "end": round(end / rate, 3), "people": _rounded(people, 4)}
        windows.append(window | {"winner": label_name(label, timeline.classes)})
        values.append({name: _rounded(value, 6) for name, value in zip(timeline.classes, row, strict=True)})
    table = pd.DataFrame([window | row for window, row in zip(windows, values, strict=True)])
    content = {"video": title, "frames": timeline.num_frames, "rate": rate}
    content |= {"minimum": timeline.minimum, "segments": _plain_segments(timeline)}
    content["windows"] = [window | {"probabilities": row} for window, row in zip(windows, values, strict=True)]
    texts = {".csv": table.to_csv(index=False, lineterminator="\n"), ".srt": subtitles(found, timeline.classes)}
    texts[".json"] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for suffix, text in texts.items():
        with atomic_write(path.with_suffix(suffix)) as file:
            file.write(text.encode("utf-8", "replace"))


def subtitles(found: Sequence[Segment], classes: Sequence[str]) -> str:
    """The segments with a class in the SubRip format (.srt)."""
    shown = [segment for segment in found if segment.label >= 0]
    return "".join(
        f"{number}\n{_stamp(segment.start)} --> {_stamp(segment.end)}\n"
        f"{clean(classes[segment.label])} ({100 * segment.probability:.0f} %)\n\n"
        for number, segment in enumerate(shown, 1)
    )


def _stamp(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"


# ---- the picture ----


def plot_timeline(path: str | os.PathLike, timeline: Timeline, found: Sequence[Segment], title: str) -> None:
    """Write a PNG: above, the probabilities of up to 8 classes over time, below, a band of the segments `found`.

    The classes are those that win for the longest time, then the most probable ones; of all others only the highest
    probability is drawn. A dotted line is the `minimum` of a winner. Where nobody is in view it is hatched.
    """
    classes, minimum = timeline.classes, timeline.minimum
    shown = likeliest_classes(timeline, found, len(COLORS))
    edges, labels = borders(timeline), {segment.label for segment in found}
    colors = dict(zip(shown, COLORS, strict=False))
    styles = WITHOUT_CLASS | {label: {"color": color, "linewidth": 0} for label, color in colors.items()}
    figure = Figure(figsize=(14, 5), layout="constrained")
    top, band = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    grid, values = thin_out(edges, timeline.probabilities)
    others = np.setdiff1d(np.arange(len(classes)), shown)
    lines = []
    if len(others):
        lines.append(top.stairs(values[:, others].max(axis=1), grid, baseline=None, color=REST, linewidth=1))
        lines[0].set_label(f"highest of the other {len(others)}")
    for label in shown[::-1]:  # the first on top
        name = printable(classes[label])
        lines.append(top.stairs(values[:, label], grid, baseline=None, color=colors[label], linewidth=1.5, label=name))
    lines.reverse()
    for label in labels:
        spans = [(segment.start, segment.end - segment.start) for segment in found if segment.label == label]
        for axes in (band, top) if label == NOBODY else (band,):
            axes.broken_barh(spans, (0, 1.02), **styles.get(label, OTHER))
    for segment in found:
        if segment.label >= 0:
            _write_name(band, segment, edges[-1], printable(classes[segment.label], 24))
    style = {"color": "#606060", "linewidth": 1, "linestyle": ":", "label": f"minimum of a winner: {minimum:.2g}"}
    lines.append(top.axhline(minimum, **style))
    if labels - styles.keys():
        lines.append(Patch(**OTHER, label="won by another class"))
    for label, text in ((NONE, "none: below the minimum"), (NOBODY, NAMES[NOBODY])):
        if label in labels:
            lines.append(Patch(**styles[label], label=text))
    figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=9)
    top.set(ylim=(0, 1.02), ylabel="probability", title=printable(title, 100))
    top.grid(alpha=0.25)
    top.spines[["top", "right"]].set_visible(False)
    unit = "m:ss" if edges[-1] < 3600 else "h:mm:ss"
    band.set(xlim=edges[[0, -1]], ylim=(0, 1), yticks=[], xlabel=f"time ({unit})")
    step = next((step for step in STEPS if edges[-1] / step <= TICKS), edges[-1] / TICKS)
    band.xaxis.set_major_locator(MultipleLocator(step))
    band.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds, int(step < 1))))
    write_png(figure, path)


def likeliest_classes(timeline: Timeline, found: Sequence[Segment], count: int) -> list[int]:
    """Up to `count` classes: those that win for the longest time, then those that are the most probable at any time."""
    won = np.zeros(timeline.probabilities.shape[1])
    for segment in found:
        if segment.label >= 0:
            won[segment.label] += segment.end - segment.start
    highest = np.nan_to_num(timeline.probabilities).max(axis=0)
    return np.lexsort((-highest, -won))[:count].tolist()


def thin_out(edges: np.ndarray, values: np.ndarray, most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` steps of `values` (W, C) between `edges` (W + 1,): means over equally many following ones.

    A mean is NaN where any of its values is.
    """
    starts = np.arange(0, len(values), -(-len(values) // most))
    counts = np.diff(np.append(starts, len(values)))
    return np.append(edges[starts], edges[-1]), np.add.reduceat(values, starts, axis=0) / counts[:, None]


def clock(seconds: float, digits: int = 0) -> str:
    """A time as m:ss, or h:mm:ss from an hour on; `digits` behind the point."""
    whole, fraction = divmod(round(seconds * 10**digits), 10**digits)
    minutes, second = divmod(whole, 60)
    text = f"{minutes}:{second:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
    return text + f".{fraction:0{digits}d}" * (digits > 0)


def _write_name(band: Any, segment: Segment, end: float, name: str) -> None:
    """Write the class across its part of the band, upright if it is narrow, or not at all."""
    inches = BAND * (segment.end - segment.start) / end
    across = 0.08 * len(name) <= inches
    if across or (inches > 0.19 and len(name) <= 10):
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": "white", "clip_on": True}
        style |= {"fontsize": 9} if across else {"fontsize": 7, "rotation": 90}
        band.text((segment.start + segment.end) / 2, 0.5, name, **style)
