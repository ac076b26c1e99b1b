"""From the windows of a timeline to segments: what happens from when to when."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pose.keypoints import LEAST_SHARE
from prediction.overlay import Bars
from prediction.results import NOBODY_IN_VIEW, Fusion
from prediction.timeline import Timeline

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
