"""What happens in a long video, and when: windows of it are tested as videos are, in one pass over its frames."""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain, count, groupby
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator
from tqdm import tqdm

from common.atomic import write_text
from common.cli import UserError, print_table
from common.contact_sheet import clean
from common.video import duration, frames_of, rate_of, through_jpeg
from dataloader.names import stem
from fusion.plots import printable, write_png
from pose.estimators import Estimator
from prediction.classify import (
    BAR,
    MINIMUM,
    NOBODY_IN_VIEW,
    THREADS,
    Classifier,
    Fusion,
    Prediction,
    check_num_frames,
    describe,
    look,
    score,
)
from prediction.overlay import Bars
from training.streams import Window

Item = TypeVar("Item")
NONE = "none"  # in place of a class: none is probable enough
SUFFIXES = (".png", ".csv", ".json", ".srt")
ROWS = 10  # classes in the picture
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds between ticks


class Plan(NamedTuple):
    """Windows of `length` seconds that start every `stride` seconds."""

    length: float = 4
    stride: float = 1


@dataclass(frozen=True)
class Timeline:
    """The scores of a video's W windows, in order of time.

    whole: the mean logits over the windows that a stream counts in, and the people of each frame that was searched, as
    the window that it belongs to sees them. spans: int64 (W, 2), the first frame of each window, counted from 0, and
    the one after its last. probabilities: float32 (W, classes), of the fused logits; NaN where nobody is in view, and
    all streams are of poses. people: float32 (W,), the share of the frames searched for people that show some; NaN
    where none was searched. minimum: the probability below which no class wins.
    """

    classes: Sequence[str]
    minimum: float
    rate: Fraction  # frames per second
    whole: Prediction
    spans: np.ndarray
    probabilities: np.ndarray
    people: np.ndarray

    @property
    def winners(self) -> list[str]:
        """The likeliest class of each window; `NONE` where it is not probable enough, or `NOBODY_IN_VIEW`."""
        known = np.nan_to_num(self.probabilities)
        likeliest = [self.classes[label] for label in known.argmax(axis=1)]
        wins = np.where(known.max(axis=1) < self.minimum, NONE, np.array(likeliest, object))
        return np.where(np.isnan(self.probabilities).any(axis=1), NOBODY_IN_VIEW, wins).tolist()

    @property
    def borders(self) -> np.ndarray:
        """Where the time of one window ends and the next one's begins, float64 (W + 1,) in seconds.

        A moment belongs to the window whose centre is nearest.
        """
        centres = self.spans.mean(axis=1)
        between = (centres[1:] + centres[:-1]) / 2
        return np.concatenate((self.spans[:1, 0], between, self.spans[-1:, 1])) / float(self.rate)

    def windows_at(self, frames: Iterable[int]) -> list[int]:
        """The window that each of the frames, from 1, belongs to, by its place in the order of time."""
        middles = (np.fromiter(frames, float) - 0.5) / float(self.rate)
        return np.searchsorted(self.borders[1:-1], middles, side="right").tolist()


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
    everyone, found, rows = {}, {}, []
    with closing(frames_of(path, options.frames, THREADS, damage)) as pictures:
        first = next(pictures)
        rate, seconds = rate_of(path, options.frames), duration(path)
        length = max(round(Fraction(str(plan.length)) * rate), 1)
        starts = window_starts(plan, rate, options.estimate_every if isinstance(source, Estimator) else 1)
        total = round(seconds * rate) if seconds else None
        frames = tqdm(chain([first], _until_error(pictures, damage)), stem(path.name), total, **BAR)
        prepared = (through_jpeg(rgb, options.frames.quality) for rgb in frames)
        for start, held in windows_of(prepared, length, starts):
            found = {number: people for number, people in found.items() if number > start}  # by the windows before
            known = {number - start: people for number, people in found.items()}
            window = Window(len(held), {}, known, held[0].shape[:2])
            new = look(window, partial(map, dict(enumerate(held, 1)).__getitem__), classifier, start)
            found |= {start + number: people for number, people in new.items()}
            span, logits = (start, start + window.num_frames), score(window, classifier)
            border = (sum(rows[-1][0]) + sum(span)) / 4 if rows else 0
            share = sum(window.shown.values()) / len(window.people) if window.people else np.nan
            rows.append((span, fusion.fuse(logits)[1], share, logits))
            for number, people in window.people.items():
                if start + number - 0.5 >= border or start + number not in everyone:
                    everyone[start + number] = people
    window = Window(rows[-1][0][1], {}, everyone, first.shape[:2])
    check_num_frames(source, window.num_frames)
    return timeline_of(rows, window, fusion, rate, "; ".join(damage))


def timeline_of(rows: Sequence[tuple], window: Window, fusion: Fusion, rate: Fraction, damage: str = "") -> Timeline:
    """The `Timeline` of windows that together are one `window`, from a row for each.

    A row: span, fused probabilities, the share of the frames that show people, logits by stream.
    """
    spans, probabilities, shares, scores = zip(*rows, strict=True)
    known = {name: [logits[name] for logits in scores if name in logits] for name in fusion.calibrations}
    means = {name: np.stack(values).mean(0, np.float64).astype(np.float32) for name, values in known.items() if values}
    minimum = MINIMUM if fusion.calibration.threshold is None else fusion.calibration.threshold
    arrays = np.array(spans), np.stack(probabilities).astype(np.float32), np.array(shares, np.float32)
    return Timeline(fusion.classes, minimum, rate, Prediction(means, window, damage), *arrays)


def _until_error(pictures: Iterator[np.ndarray], damage: list[str]) -> Iterator[np.ndarray]:
    try:
        yield from pictures
    except UserError as error:
        damage.append(str(error))


# ---- segments ----


def segments(timeline: Timeline) -> list[dict]:
    """Neighbouring windows of one winner, joined, in plain values; together they cover the whole video.

    `start` and `end` are in seconds, `class` is the winner, `probability` the mean of the class's; of `NONE`, of the
    likeliest class's, whichever it was; None where nobody is in view.
    """
    classes, winners, edges, found = list(timeline.classes), timeline.winners, timeline.borders, []
    for name, group in groupby(range(len(winners)), winners.__getitem__):
        windows = list(group)
        part = timeline.probabilities[windows]
        mean = float((part[:, classes.index(name)] if name in classes else part.max(axis=1)).mean())
        span = {"start": round(float(edges[windows[0]]), 3), "end": round(float(edges[windows[-1] + 1]), 3)}
        found.append(span | {"class": name, "probability": None if np.isnan(mean) else round(mean, 4)})
    return found


def bars_of_frames(timeline: Timeline, count: int) -> list[Bars]:
    """What the overlay shows of each frame: the `count` likeliest classes of the window that it belongs to, best first.

    Where nobody is in view, that as many times.
    """
    panels = []
    for probabilities, winner in zip(timeline.probabilities, timeline.winners, strict=True):
        order = np.argsort(-probabilities, kind="stable")[:count]
        top = [(timeline.classes[label], float(probabilities[label])) for label in order]
        if winner == NOBODY_IN_VIEW:
            top = [(NOBODY_IN_VIEW, 0.0)] * len(order)
        panels.append(Bars(top, notes=["none of these" * bool(winner == NONE)], answered=winner in timeline.classes))
    return [panels[window] for window in timeline.windows_at(range(1, timeline.whole.window.num_frames + 1))]


# ---- what is told ----


def describe_timeline(timeline: Timeline, fusion: Fusion) -> dict:
    """Plain values as `describe` gives, scores being means over the windows, and `segments` for the answer."""
    result = describe(timeline.whole, fusion._replace(threshold=0))
    del result["answer"]
    return result | {"segments": segments(timeline)}


def rows_of_segments(found: Sequence[dict]) -> list[list[str]]:
    """When what happens, for a table of `segments`: class, from, to, percent."""
    percents = ["" if part["probability"] is None else f"{100 * part['probability']:.1f}" for part in found]
    times = [(clock(part["start"], 1), clock(part["end"], 1)) for part in found]
    return [[part["class"], *time, percent] for part, time, percent in zip(found, times, percents, strict=True)]


def print_segments(found: Sequence[dict]) -> None:
    """Print when what happens, by `segments`."""
    rows = [(f"  {name}", *others) for name, *others in rows_of_segments(found)]
    print_table(("  segment", "from", "to", "probability, %"), rows)


def write_timeline(path: Path, timeline: Timeline, title: str) -> None:
    """Write the picture `path`, and beside it .csv and .json with the windows and .srt with the segments."""
    found, rate = segments(timeline), float(timeline.rate)
    plot_timeline(path, timeline, found, title)
    windows = pd.DataFrame(timeline.spans / rate, columns=["start", "end"]).round(3)
    windows["people"] = timeline.people.astype(float).round(4)
    windows["winner"] = timeline.winners
    values = pd.DataFrame(timeline.probabilities.astype(float), columns=timeline.classes).round(6)
    rows, values_of_rows = (
        table.astype(object).where(table.notna(), None).to_dict("records") for table in (windows, values)
    )
    content: dict = {
        "video": title,
        "frames": timeline.whole.window.num_frames,
        "rate": rate,
        "minimum": timeline.minimum,
    }
    content["segments"] = found
    content["windows"] = [row | {"probabilities": each} for row, each in zip(rows, values_of_rows, strict=True)]
    table = pd.concat([windows, values], axis=1).to_csv(index=False, lineterminator="\n")
    subtitles = subtitles_of([segment for segment in found if segment["class"] in timeline.classes])
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for suffix, written in ((".csv", table), (".json", text), (".srt", subtitles)):
        write_text(path.with_suffix(suffix), written)


def subtitles_of(found: Sequence[dict]) -> str:
    """Segments in the SubRip format (.srt)."""

    def stamp(seconds: float) -> str:
        whole, milliseconds = divmod(round(seconds * 1000), 1000)
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"

    return "".join(
        f"{number}\n{stamp(segment['start'])} --> {stamp(segment['end'])}\n"
        f"{clean(segment['class'])} ({100 * segment['probability']:.0f} %)\n\n"
        for number, segment in enumerate(found, 1)
    )


def clock(seconds: float, digits: int = 0) -> str:
    """A time as m:ss, or h:mm:ss from an hour on; `digits` behind the point."""
    whole, fraction = divmod(round(seconds * 10**digits), 10**digits)
    minutes, second = divmod(whole, 60)
    text = f"{minutes}:{second:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
    return text + f".{fraction:0{digits}d}" * (digits > 0)


def plot_timeline(path: Path, timeline: Timeline, found: Sequence[dict], title: str) -> None:
    """Write a PNG: the probabilities of up to 10 classes over time as shades, the segments `found` as bars below them.

    The classes are those that win for the longest time, then the most probable ones.
    """
    edges, won = timeline.borders, Counter()
    for segment in found:
        won[segment["class"]] += segment["end"] - segment["start"]
    highest = np.nan_to_num(timeline.probabilities).max(axis=0)
    shown = np.lexsort((-highest, [-won[name] for name in timeline.classes]))[:ROWS].tolist()
    names = [timeline.classes[label] for label in shown]
    names += [name for name in (NONE, NOBODY_IN_VIEW) if won[name]]
    figure = Figure(figsize=(14, 1.5 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    shades = np.ma.masked_invalid(timeline.probabilities[:, shown].T)
    image = axes.pcolormesh(edges, np.arange(len(shown) + 1), shades, cmap="Blues", vmin=0, vmax=1)
    for row, name in enumerate(names):
        spans = [(part["start"], part["end"] - part["start"]) for part in found if part["class"] == name]
        top, color = (row + 0.8, "#e6550d") if row < len(shown) else (row + 0.1, "#b0b0b0")
        axes.broken_barh(spans, (top, row + 1 - top), color=color, linewidth=0)
    axes.set_yticks(np.arange(len(names)) + 0.5, [printable(name, 30) for name in names])
    axes.set(xlim=edges[[0, -1]], ylim=(len(names), 0), title=printable(title, 100))
    label_time(axes, edges[-1])
    figure.colorbar(image, label=f"probability; {NONE}: below {timeline.minimum:.2g}", pad=0.01)
    write_png(figure, path)


def label_time(axes: Axes, end: float) -> None:
    """Label the x axis with times up to `end` seconds."""
    step = next((step for step in STEPS if end / step <= 14), end / 14)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds, int(step < 1))))
    axes.set_xlabel("time")
