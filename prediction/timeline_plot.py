"""The picture of a timeline: probabilities of the likeliest classes over time, and who won when."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from fusion.plots import printable, write_png
from prediction.timeline import NAMES, NOBODY, NONE, Segment, Timeline, borders

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
