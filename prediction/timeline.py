"""What happens in a long video, and when: windows of it are tested as videos are, in one pass over its frames."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from common.cli import UserError
from common.video import decode_frames, duration, encode_jpeg, frame_rate, resize_short_side
from dataloader.names import stem
from fusion.metrics import calibrated
from network import Model
from pose.estimators import Estimator
from pose.keypoints import LEAST_SHARE, Keypoints, people_of_frame
from prediction.classify import (
    BAR,
    NOBODY_IN_VIEW,
    THREADS,
    Fusion,
    Options,
    Poses,
    check_num_frames,
    complete_people,
    find_people,
    frames_to_look_at,
    score_frames,
)
from prediction.overlay import Bars
from training.streams import FLOW, SPATIAL

Item = TypeVar("Item")


class Plan(NamedTuple):
    """Windows of `length` seconds that start every `stride` seconds."""

    length: float = 4
    stride: float = 1


@dataclass
class Timeline:
    """The scores of a video's W windows, in order of time.

    spans: int64 (W, 2), the first frame of each window, counted from 0, and the one after its last.
    probabilities: float32 (W, classes), of the fused logits; NaN where a window could not be scored, or no stream
    was left because it shows nobody.
    people: float32 (W,), the share of the frames looked at that show somebody; NaN if nobody was looked for.
    logits: float32 (classes,) by stream, means over the windows that it counts in. poses: the people of each frame, as
    the window that it belongs to sees them (only with `Options.every_pose`). damage: what could not be decoded.
    looked_at, with_people: frames that were searched for people, and those where some were found.
    failures: why windows could not be scored.
    """

    rate: Fraction  # frames per second
    num_frames: int
    spans: np.ndarray
    probabilities: np.ndarray
    people: np.ndarray
    logits: dict[str, np.ndarray]
    poses: Poses
    damage: str
    looked_at: int
    with_people: int
    failures: list[str]


@dataclass
class _Frame:
    """A frame while a window may still need it."""

    jpeg: bytes | None
    size: tuple[int, int]
    people: np.ndarray | None = None
    looked_at: bool = False
    with_people: bool = False


@dataclass
class _Tally:
    """What is known of the windows so far."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    people: list[float] = field(default_factory=list)
    logits: dict[str, list[np.ndarray]] = field(default_factory=dict)
    poses: Poses = field(default_factory=Poses)
    looked_at: int = 0
    with_people: int = 0
    failures: list[str] = field(default_factory=list)


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


def classify_windows(
    path: Path,
    models: Mapping[str, Model],
    source: Estimator | Keypoints | None,
    options: Options,
    plan: Plan,
    fusion: Fusion,
) -> Timeline:
    """Test the streams' `models`, by the stream's name, on windows of a video file, and fuse them.

    A window is scored as a file of its frames alone would be, by `score_frames`: people are followed, cleaned and
    interpolated within it. Each frame is decoded once, and its people are found once. Only one window's frames are in
    memory, so the length of the video does not matter (but for its `poses`, with `Options.every_pose`).

    Windows are counted in frames: seconds are frames divided by the rate, those of the file where it is constant, or
    with `FrameSettings.fps`. A window that cannot be scored is a gap; a file that ends early keeps what came before.
    Raises `UserError` if no window can be scored, or if the video does not fit the keypoints.
    """
    damage: list[str] = []
    settings, tally = options.frames, _Tally()
    with closing(decode_frames(path, settings.every, THREADS, damage, settings.fps)) as pictures:
        first = next(pictures)
        rate, seconds = settings.rate(frame_rate(path)), duration(path)
        total = round(seconds * rate) if seconds else None
        every = options.estimate_every if isinstance(source, Estimator) else 1
        length = max(round(Fraction(str(plan.length)) * rate), 1)
        with tqdm(total=total, desc=stem(path.name), **BAR) as bar:
            kept = isinstance(source, Estimator) or not {SPATIAL.name, FLOW.name}.isdisjoint(models)
            frames = _frames(chain([first], pictures), options, kept, damage, bar)
            for start, window in windows_of(frames, length, window_starts(plan, rate, every)):
                _add_window(tally, start, window, models, source, options, fusion)
    num_frames = tally.spans[-1][1]
    if isinstance(source, Keypoints):
        check_num_frames(source, num_frames)
    if len(tally.failures) == len(tally.spans):
        raise UserError(tally.failures[0])
    if num_frames < length:
        shorter = f"shorter than a window of {plan.length:g} s: one window of all its {float(num_frames / rate):.2f} s"
        print(f"{path}: {shorter}", file=sys.stderr)
    if tally.failures:
        gaps = f"{len(tally.failures)} of {len(tally.spans)} windows could not be scored"
        print(f"warning: {path}: {gaps}: {tally.failures[0]}", file=sys.stderr)
    return Timeline(
        rate,
        num_frames,
        np.array(tally.spans, np.int64),
        np.stack(tally.probabilities),
        np.array(tally.people, np.float32),
        {name: (sum(values, np.zeros(1)) / len(values)).astype(np.float32) for name, values in tally.logits.items()},
        tally.poses,
        "; ".join(damage),
        tally.looked_at,
        tally.with_people,
        tally.failures,
    )


def _frames(
    pictures: Iterator[np.ndarray], options: Options, kept: bool, damage: list[str], bar: tqdm
) -> Iterator[_Frame]:
    """The pictures as frames on disk are, without their JPEG files unless `kept`; what ends them early is `damage`."""
    settings = options.frames
    while True:
        try:
            rgb = next(pictures, None)
        except UserError as error:
            damage.append(str(error))
            return
        if rgb is None:
            return
        rgb = resize_short_side(rgb, settings.short_side)
        yield _Frame(encode_jpeg(rgb, settings.quality) if kept else None, rgb.shape[:2])
        bar.update()


def _add_window(
    tally: _Tally,
    start: int,
    frames: list[_Frame],
    models: Mapping[str, Model],
    source: Estimator | Keypoints | None,
    options: Options,
    fusion: Fusion,
) -> None:
    border = (sum(tally.spans[-1]) + start + start + len(frames)) / 4 if tally.spans else 0
    tally.spans.append((start, start + len(frames)))
    poses, probabilities = Poses(), np.full(len(fusion.classes), np.nan, np.float32)
    try:
        seen, posed, every = frames_to_look_at(len(frames), models, isinstance(source, Estimator), options)
        numbers = set(posed) | (seen if FLOW.name in models else set())
        _check_one_size([frames[number - 1].size for number in sorted(numbers)])
        poses = complete_people(_people(frames, start, posed, source), len(frames), every, options.cleaning)
        pictures = {number: frames[number - 1].jpeg for number in seen}
        logits = score_frames(models, pictures, poses, len(frames), options)
        if counted := fusion.of(logits):
            kept, fused = counted
            probabilities = calibrated(fused, kept.calibration.temperature).astype(np.float32)
        for name, values in logits.items():
            tally.logits.setdefault(name, []).append(values)
    except UserError as error:
        tally.failures.append(str(error))
    tally.probabilities.append(probabilities)
    tally.people.append(poses.with_people / len(poses.people) if poses.people else np.nan)
    for number, people in poses.people.items():
        frame = frames[number - 1]
        tally.looked_at += not frame.looked_at
        tally.with_people += len(people) > 0 and not frame.with_people
        frame.looked_at, frame.with_people = True, frame.with_people or len(people) > 0
        if options.every_pose and start + number - 0.5 >= border:
            tally.poses.people[start + number] = people
    tally.poses.frame_size = poses.frame_size


def _check_one_size(sizes: Sequence[tuple[int, int]]) -> None:
    other = next((size for size in sizes if size != sizes[0]), None)
    if other:
        raise UserError(f"its frames change from {sizes[0]} to {other} pixels (height, width)")


def _people(frames: list[_Frame], start: int, numbers: Sequence[int], source: Estimator | Keypoints | None) -> Poses:
    """The people of a window's frames `numbers`, from 1; those of frames that no window before looked at are found."""
    if isinstance(source, Keypoints):
        people = {number: people_of_frame(source, start + number) for number in numbers}
        return Poses(people, source.frame_size)
    if source is None or not numbers:
        return Poses()
    new = [number for number in numbers if frames[number - 1].people is None]
    found = find_people(((number, frames[number - 1].jpeg) for number in new), source)
    for number, people in found.people.items():
        frames[number - 1].people = people
    return Poses({number: frames[number - 1].people for number in numbers}, frames[numbers[0] - 1].size)


# ---- segments ----


MINIMUM = 0.3  # probability of a winner where validation videos chose no threshold: well above chance, no more
# In place of a class: no class is probable enough; the window could not be scored; nobody is in view.
NONE, GAP, NOBODY = -1, -2, -3
NAMES = {NONE: "none", GAP: "gap", NOBODY: NOBODY_IN_VIEW}


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


def winners(timeline: Timeline, minimum: float) -> np.ndarray:
    """The likeliest class of each window, int64 (W,); `NONE` if its probability is below `minimum`, `NOBODY`, `GAP`."""
    failed = np.isnan(timeline.probabilities).any(axis=1)
    known = np.where(failed[:, None], 0, timeline.probabilities)
    unscored = np.where(timeline.people < LEAST_SHARE, NOBODY, GAP)
    return np.where(failed, unscored, np.where(known.max(axis=1) < minimum, NONE, known.argmax(axis=1)))


def segments(timeline: Timeline, minimum: float) -> list[Segment]:
    """Neighbouring windows of one winner, joined; together they cover the whole video."""
    labels, edges = winners(timeline, minimum), borders(timeline)
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


def least_probability(fusion: Fusion) -> float:
    """Below what probability a window's likeliest class is none: the threshold of the fusion, or `MINIMUM`."""
    threshold = fusion.calibration.threshold
    return MINIMUM if threshold is None else threshold


def bars_of_frames(
    timeline: Timeline, classes: Sequence[str], count: int, minimum: float = 0.0
) -> Callable[[int], Bars]:
    """A function from a frame's number, from 1, to what the overlay shows: the `count` likeliest classes, best first.

    They are those of the window that the frame belongs to; of one without scores, why, as many times.
    """
    inner = borders(timeline)[1:-1] * float(timeline.rate)
    labels = winners(timeline, minimum)

    @lru_cache(maxsize=1)
    def of_window(number: int) -> Bars:
        probabilities, label = timeline.probabilities[number], labels[number]
        order = np.argsort(-probabilities, kind="stable")[:count]
        if label in (GAP, NOBODY):
            return Bars([(NAMES[label], 0.0)] * len(order), notes=[""], answered=False)
        top = [(classes[label], float(probabilities[label])) for label in order]
        return Bars(top, notes=["none of these" * bool(label == NONE)], answered=label != NONE)

    return lambda number: of_window(int(np.searchsorted(inner, number - 0.5, side="right")))
