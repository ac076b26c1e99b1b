"""Pictures of results: confusion matrix, training curves, mistakes. Drawn without pyplot, written whole."""

import io
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import MaxNLocator, NullFormatter

from common.atomic import atomic_write
from common.cli import UserError
from common.images import BrokenImage, read_image

TRAIN_COLOR, TEST_COLOR = "#4c72b0", "#c44e52"
# Fonts with Chinese, Japanese and Korean letters on Linux, macOS and Windows, tried after the default.
MORE_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Arial Unicode MS", "Microsoft YaHei")
FONTS = ["DejaVu Sans", *(name for name in MORE_FONTS if name in fontManager.get_font_names())]


class Mistake(NamedTuple):
    """A misclassified video with its pictures, None where there is none."""

    name: str
    true: str
    predicted: str
    confidence: float  # probability of the predicted class, 0..1
    images: Sequence[Path | None]


def plot_confusion(
    matrix: np.ndarray, classes: Sequence[str], path: str | os.PathLike, title: str = "Confusion matrix"
) -> None:
    """Draw a confusion matrix as PNG: rows are true classes, columns predicted ones.

    `matrix` (C, C) holds counts of videos. Cells show percent of their row, zeros are left empty; behind a class
    name stands its number of videos. The picture grows with the number of classes up to some 6000 pixels a side.
    """
    count, videos = len(classes), matrix.sum(1)
    percent = 100.0 * matrix / np.maximum(videos, 1)[:, None]
    cell = min(max(0.34, 7.5 / count), max(0.62, 1.8 / count), 60 / count)  # inches; 100 pixels per inch
    size = min(cell * 72 * 0.33, 11)  # points
    names = [printable(name) for name in classes]
    margin = size * 0.62 / 72 * max(len(name) for name in names) + 1
    side, total = cell * count, cell * count + margin
    figure = Figure(figsize=(total, total))
    axes = figure.add_axes((margin / total, margin / total, side / total, side / total))
    edges = np.arange(count + 1) - 0.5
    axes.pcolormesh(edges, edges, percent, cmap="Blues", vmin=0, vmax=100, edgecolors="#e4e4e4", linewidth=0.5)
    axes.set(xlim=edges[[0, -1]], ylim=edges[[-1, 0]])
    axes.set_xticks(range(count), names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), [f"{name} ({n})" for name, n in zip(names, videos, strict=True)], fontsize=size)
    if count > 30:  # names on all four sides, for the far ones are out of sight
        axes.tick_params(top=True, labeltop=True, right=True, labelright=True)
    for row, column in zip(*np.nonzero(matrix), strict=True) if count <= 400 else ():
        color = "white" if percent[row, column] > 55 else "black"
        text = f"{percent[row, column]:.0f}" if percent[row, column] >= 0.5 else "<1"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    accuracy = 100 * np.trace(matrix) / max(videos.sum(), 1)
    note = f"Prec@1 {accuracy:.2f} %, cells: percent of the true class's videos"
    axes.set(xlabel="predicted", ylabel="true (videos)", title=f"{printable(title, 200)}\n{note}")
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_fontsize(max(size, 9, side * 0.6))
    write_png(figure, path)


def plot_curves(train_csv: str | os.PathLike, test_csv: str | os.PathLike, path: str | os.PathLike) -> None:
    """Draw loss, Prec@1 and learning rate over the epochs of two records (columns as in `record/`) as PNG.

    The second record is called validation if its name ends in `_val`. Values that are not finite are skipped.
    Raises `UserError` if a record cannot be read or lacks a column.
    """
    columns = ["Epoch", "Loss", "Prec@1"]
    train, test = read_columns(train_csv, [*columns, "lr"]), read_columns(test_csv, columns)
    test_name = "validation" if Path(test_csv).stem.endswith("_val") else "test"
    figure = Figure(figsize=(8, 8))
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.5))
    marker = {"marker": "o", "markersize": 4 if len(train) <= 30 else 0}
    for axes, column in ((loss, "Loss"), (accuracy, "Prec@1")):
        axes.plot(train["Epoch"], train[column], label="train", color=TRAIN_COLOR, **marker)
        axes.plot(test["Epoch"], test[column], label=test_name, color=TEST_COLOR, **marker)
    if test["Prec@1"].notna().any():
        best = test.loc[test["Prec@1"].idxmax()]
        accuracy.axhline(best["Prec@1"], color=TEST_COLOR, linewidth=0.8, linestyle=":")
        text = f"best {best['Prec@1']:.2f} in epoch {best['Epoch']:g}"
        accuracy.set_title(text, loc="right", fontsize=9, color=TEST_COLOR)
    loss.set(ylabel="loss", ylim=(0, None))
    loss.legend(frameon=False)
    accuracy.set(ylabel="Prec@1 (%)", ylim=(0, 101))
    rates = train["lr"].where(train["lr"] > 0)
    rate.plot(train["Epoch"], rates, color="#555555", drawstyle="steps-mid", **marker)
    if rates.notna().any():
        rate.set_yscale("log")
        rate.set_ylim(rates.min() / 3, rates.max() * 3)
    rate.set(ylabel="lr", xlabel="epoch")
    rate.yaxis.set_minor_formatter(NullFormatter())
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    first, last = train["Epoch"].min(), train["Epoch"].max()
    if first == last:
        rate.set_xlim(first - 0.5, last + 0.5)
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    write_png(figure, path)


def plot_misclassified(mistakes: Sequence[Mistake], path: str | os.PathLike) -> None:
    """Draw each mistake's pictures side by side, above them its name, true and predicted class, as PNG.

    A picture that is None or cannot be read leaves a grey tile.
    """
    across = max((len(mistake.images) for mistake in mistakes), default=1)
    columns = min(3, max(1, math.ceil(math.sqrt(len(mistakes) / 2))))
    rows = max(1, math.ceil(len(mistakes) / columns))
    figure = Figure(figsize=(max(4.6, 2.3 * across) * columns, 2.75 * rows + 0.4))
    if not mistakes:
        figure.text(0.5, 0.5, "no mistakes", ha="center", va="center")
    grid = figure.subfigures(rows, columns, squeeze=False)
    for part, mistake in zip(grid.flat, mistakes, strict=False):
        predicted = f"predicted: {printable(mistake.predicted)} ({mistake.confidence:.0%})"
        heading = f"{printable(mistake.name, 48)}\ntrue: {printable(mistake.true)}\n{predicted}"
        part.suptitle(heading, fontsize=9, y=0.98, va="top")
        tiles = part.subplots(1, across, squeeze=False)
        part.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.76, wspace=0.03)
        for axes, image in zip(tiles.flat, mistake.images, strict=False):
            try:
                pixels = read_image(image or "")
            except BrokenImage:
                pixels = np.full((3, 4, 3), 225, np.uint8)
                axes.text(0.5, 0.5, "no picture", ha="center", va="center", transform=axes.transAxes, fontsize=8)
            axes.imshow(pixels)
        for axes in tiles.flat:
            axes.axis("off")
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


def read_columns(path: str | os.PathLike, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns of a record (CSV) as float64; nan stands for an empty, infinite or absurd value.

    Raises `UserError` if the file cannot be read, lacks a column, or holds something else than numbers.
    """
    try:
        table = pd.read_csv(path, usecols=columns, dtype=np.float64)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # bad UTF-8 and pandas' own errors included
        raise UserError(f"{path}: not a record of a training run ({error})") from None
    return table.where(table.abs() < 1e100)


def printable(name: str, length: int = 40) -> str:
    """`name` as matplotlib can draw it: short, without control characters, its `$` not taken for mathematics."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return (name if len(name) <= length else name[: length - 1] + "…").replace("$", r"\$")
