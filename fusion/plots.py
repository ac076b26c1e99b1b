"""Pictures of results: confusion matrix, training curves. Drawn without pyplot, written whole."""

import io
import os
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.atomic import atomic_write
from common.contact_sheet import FONTS, clean

TRAIN_COLOR, TEST_COLOR = "#4c72b0", "#c44e52"


def plot_confusion(
    matrix: np.ndarray, classes: Sequence[str], path: str | os.PathLike, title: str = "Confusion matrix"
) -> None:
    """Draw a confusion matrix as PNG: rows are true classes, columns predicted ones.

    `matrix` (C, C) holds counts of videos. Cells show percent of their row, zeros are left empty; behind a class
    name stands its number of videos. The picture grows with the number of classes up to some 6000 pixels a side.
    """
    count, videos = len(classes), matrix.sum(1)
    percent = 100.0 * matrix / np.maximum(videos, 1)[:, None]
    cell = min(max(0.34, 7.5 / count), 0.62, 60 / count)  # inches; 100 pixels per inch
    size = min(cell * 72 * 0.33, 11)  # points
    names = [printable(name) for name in classes]
    figure = Figure(figsize=(cell * count, cell * count))  # the cells; names stand outside, where saving keeps them
    axes = figure.add_axes((0, 0, 1, 1))
    edges = np.arange(count + 1) - 0.5
    axes.pcolormesh(edges, edges, percent, cmap="Blues", vmin=0, vmax=100, edgecolors="#e4e4e4", linewidth=0.5)
    axes.invert_yaxis()
    axes.set_xticks(range(count), names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), [f"{name} ({n})" for name, n in zip(names, videos, strict=True)], fontsize=size)
    for row, column in zip(*np.nonzero(matrix), strict=True) if count <= 400 else ():
        color = "white" if percent[row, column] > 55 else "black"
        text = f"{percent[row, column]:.0f}" if percent[row, column] >= 0.5 else "<1"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    accuracy = 100 * np.trace(matrix) / max(videos.sum(), 1)
    note = f"Prec@1 {accuracy:.2f} %, cells: percent of the true class's videos"
    axes.set_title(f"{printable(title, 200)}\n{note}", fontsize=max(size, 9, cell * count * 0.6))
    axes.set(xlabel="predicted", ylabel="true (videos)")
    write_png(figure, path)


def plot_curves(
    train: pd.DataFrame, tested: pd.DataFrame, test_name: str, path: str | os.PathLike, title: str, latest: bool = False
) -> None:
    """Draw loss, Prec@1 and learning rate over the epochs of two records (columns as in `record/`) as PNG.

    The epoch of the highest tested Prec@1 is marked: of equals the first, or the `latest`. The first line of `title`
    is the heading. Values that are not finite are skipped.
    """
    train, test = (record.where(record.abs() < 1e100) for record in (train, tested))
    figure = Figure(figsize=(8, 8.5))
    loss, accuracy, rate = panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.8))
    figure.suptitle("\n".join(printable(line, 100) for line in title.splitlines()), fontsize=11, y=0.94, va="bottom")
    style = {"marker": ".", "markersize": 7 if len(train) <= 30 else 0}
    for axes, column in ((loss, "Loss"), (accuracy, "Prec@1")):
        axes.plot(train["Epoch"], train[column], label="train", color=TRAIN_COLOR, **style)
        axes.plot(test["Epoch"], test[column], label=test_name, color=TEST_COLOR, **style)
    rates = train["lr"]
    rate.plot(train["Epoch"], rates, color="#555555", **style)
    if (rates.diff().iloc[1:] != 0).mean() <= 0.5 and 0 < rates.min() < 0.2 * rates.max():  # it falls in steps
        rate.set_yscale("log")
    best = test[test["Prec@1"] == test["Prec@1"].max()]
    if len(best):
        epoch, prec1 = best.iloc[-1 if latest else 0][["Epoch", "Prec@1"]]
        for axes in panels:
            axes.axvline(epoch, color=TEST_COLOR, linewidth=0.8, linestyle=":")
        accuracy.plot(epoch, prec1, marker="*", color=TEST_COLOR, markersize=14, markeredgecolor="white", zorder=3)
        text = f"best {test_name} Prec@1: {prec1:.2f} % in epoch {epoch:g}"
        accuracy.set_title(text, loc="right", fontsize=10, color=TEST_COLOR)
    loss.set(ylabel="loss (cross-entropy)", ylim=(0, None))
    loss.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1.01), borderaxespad=0)  # above the lines
    accuracy.set(ylabel="Prec@1 (%)", ylim=(0, 102))
    rate.set(ylabel="learning rate", xlabel="epoch (the first is 0)")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    write_png(figure, path)


def write_png(figure: Figure, path: str | os.PathLike) -> None:
    """Render `figure` and write it whole or not at all; letters that no font has become boxes."""
    for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
        text.set_fontfamily(FONTS)  # type: ignore[attr-defined]  # found by it
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for every letter that no font has
        figure.savefig(data, format="png", bbox_inches="tight", pad_inches=0.15)
    with atomic_write(path) as file:
        file.write(data.getbuffer())


def printable(name: str, length: int = 40) -> str:
    """`name` as matplotlib can draw it: short, without control characters, its `$` not taken for mathematics."""
    name = clean(name)
    return (name if len(name) <= length else name[: length - 1] + "…").replace("$", r"\$")
