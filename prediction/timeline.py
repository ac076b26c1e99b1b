"""What happens in a long video, and when: windows of it are tested as videos are, in one pass over its frames."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from common.cli import UserError
from common.video import duration, frames_of, rate_of, through_jpeg
from dataloader.names import stem
from pose.estimators import Estimator
from pose.keypoints import Keypoints
from prediction.classify import (
    BAR,
    NOBODY_IN_VIEW,
    THREADS,
    Classifier,
    check_num_frames,
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
            known = {number - start: people for number, people in found.items() if number > start}
            window = Window(len(frames), {}, known, frames[0].shape[:2])
        raw = look(window, partial(map, dict(enumerate(frames, 1)).__getitem__), classifier)
        found = {start + number: people for number, people in raw.items()}
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
