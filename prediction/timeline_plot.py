"""The picture of a timeline: probabilities of the likeliest classes over time, and who won when."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from fusion.plots import printable, write_png
from prediction.timeline import GAP, NAMES, NOBODY, NONE, Segment, Timeline, borders

COLORS = ("#1f77b4", "#e6550d", "#2ca02c", "#c2185b", "#7b5fb5", "#8c564b", "#17a2b8", "#b8a500")
REST, UNSURE = "#9a9a9a", "#ececec"
POINTS = 240  # of a line: of more windows, means over equal times are drawn
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds between ticks
TICKS = 14
BAND = 10.5  # inches across
_UNSCORED = {"facecolor": "white", "edgecolor": "#b0b0b0", "linewidth": 0}
UNSCORED = {GAP: _UNSCORED | {"hatch": "////"}, NOBODY: _UNSCORED | {"hatch": "...."}}


def plot_timeline(
    path: str | os.PathLike,
    timeline: Timeline,
    found: Sequence[Segment],
    classes: Sequence[str],
    minimum: float,
    title: str,
) -> None:
    """Write a PNG: above, the probabilities of up to 8 classes over time, below, a band of the segments `found`.

    The classes are those that win for the longest time, then the most probable ones; of all others only the highest
    probability is drawn. A dotted line is the `minimum` of a winner. What could not be scored is hatched.
    """
    shown = likeliest_classes(timeline, found, len(COLORS))
    colors = dict(zip(shown, COLORS, strict=False))
    edges = borders(timeline)
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
    labels = {segment.label for segment in found}
    for label in labels:
        spans = [(segment.start, segment.end - segment.start) for segment in found if segment.label == label]
        for axes in (band, top) if label in UNSCORED else (band,):
            axes.broken_barh(spans, (0, 1.02), **_band_style(label, colors))
    for segment in found:
        _write_name(band, segment, edges[-1], classes)
    style = {"color": "#606060", "linewidth": 1, "linestyle": ":", "label": f"minimum of a winner: {minimum:.2g}"}
    lines.append(top.axhline(minimum, **style))
    if labels - NAMES.keys() - set(shown):
        lines.append(Patch(color=REST, label="won by another class"))
    for label, text in ((NONE, "none: below the minimum"), (GAP, "gap: not scored"), (NOBODY, NAMES[NOBODY])):
        if label in labels:
            lines.append(Patch(**_band_style(label, colors), label=text))
    figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=9)
    top.set(ylim=(0, 1.02), ylabel="probability", title=printable(title, 100))
    top.grid(alpha=0.25)
    top.spines[["top", "right"]].set_visible(False)
    band.set(
        xlim=edges[[0, -1]], ylim=(0, 1), yticks=[], xlabel="time (m:ss)" if edges[-1] < 3600 else "time (h:mm:ss)"
    )
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
    """Steps `values` (W, C) between `edges` (W + 1,), or, of more than `most`, means over as many equal times.

    A mean is NaN where any of its windows is.
    """
    if len(values) <= most:
        return edges, values
    grid = np.linspace(edges[0], edges[-1], most + 1)
    place = np.searchsorted(grid[1:-1], (edges[1:] + edges[:-1]) / 2, side="right")
    starts = np.searchsorted(place, np.arange(most))
    filled = starts < np.searchsorted(place, np.arange(most), side="right")
    sums = np.add.reduceat(values, starts.clip(0, len(values) - 1), axis=0)
    counts = np.bincount(place, minlength=most)[:, None]
    return grid, np.where(filled[:, None], sums / np.maximum(counts, 1), np.nan)


def clock(seconds: float, digits: int = 0, hours: bool = False) -> str:
    """A time as m:ss, h:mm:ss from an hour on, or hh:mm:ss with `hours`; `digits` behind the point."""
    units = round(seconds * 10**digits)
    whole, fraction = divmod(units, 10**digits)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    end = f"{second:02d}" + f".{fraction:0{digits}d}" * (digits > 0)
    if hours:
        return f"{hour:02d}:{minute:02d}:{end}"
    return f"{hour}:{minute:02d}:{end}" if hour else f"{minute}:{end}"


def _band_style(label: int, colors: dict[int, str]) -> dict:
    if label in UNSCORED:
        return UNSCORED[label]
    return {"color": UNSURE if label == NONE else colors.get(label, REST), "linewidth": 0}


def _write_name(band: Any, segment: Segment, end: float, classes: Sequence[str]) -> None:
    """Write the class across its part of the band, upright if it is narrow, or not at all."""
    if segment.label < 0:
        return
    name, size = printable(classes[segment.label], 24), 9
    inches = BAND * (segment.end - segment.start) / end
    length = len(name) * size * 0.62 / 72
    if inches < size * 1.5 / 72:
        return
    style = {"ha": "center", "va": "center", "color": "white", "clip_on": True}
    if length <= inches:
        band.text((segment.start + segment.end) / 2, 0.5, name, fontsize=size, **style)
    elif len(name) <= 10:
        band.text((segment.start + segment.end) / 2, 0.5, name, fontsize=7, rotation=90, **style)
