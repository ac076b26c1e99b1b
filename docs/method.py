"""The picture of the method in the README, from a video's frames, its pose flow, and what predict.py says of it.

python predict.py VIDEO --spatial … --motion … --json result.json
python -m docs.method result.json FRAMES/v_VIDEO POSE_FLOW/VIDEO docs/method.png
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from common.frames import list_frames, read_image
from dataloader.sampling import STACK_LENGTH, num_starts, segment_starts, stack_indices

SHOWN = 4  # classes
BACKGROUND, BOX, BARS, BEST = "white", "#e8eef7", "#9db2d3", "#4caf6e"


def draw_images(axes: Axes, images: list[np.ndarray], left: float, top: float, height: float, step: float) -> None:
    """Images of one size as a fan of cards, each `step` to the right and below the one before."""
    for i, image in enumerate(images):
        width = height * image.shape[1] / image.shape[0]
        x, y = left + i * step, top - height - i * step * 0.35
        axes.imshow(image, extent=(x, x + width, y, y + height), zorder=2 + i)
        axes.plot([x, x + width, x + width, x, x], [y, y, y + height, y + height, y], "0.75", lw=0.6, zorder=2.5 + i)


def draw_bars(axes: Axes, scores: dict[str, float], names: list[str], left: float, top: float, title: str) -> None:
    """Bars of the probabilities of the classes `names`; the most probable one is green."""
    axes.text(left, top + 0.12, title, fontsize=10, weight="bold")
    for i, name in enumerate(names):
        y, probability = top - 0.26 * (i + 1), scores[name]
        color = BEST if probability == max(scores.values()) else BARS
        axes.barh(y, 1.3, 0.17, left=left, color="0.93")
        axes.barh(y, 1.3 * probability, 0.17, left=left, color=color)
        axes.text(left + 1.36, y, f"{name} {100 * probability:.0f} %", fontsize=8, va="center")


def box(axes: Axes, x: float, y: float, text: str) -> None:
    """A rounded box with text around (x, y)."""
    axes.add_patch(FancyBboxPatch((x - 0.55, y - 0.33), 1.1, 0.66, "round,pad=0.06", fc=BOX, ec="0.6"))
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two points."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="0.35", lw=1.2))


def main(result: Path, frames: Path, poses: Path, out: Path) -> None:
    """Draw and write the picture."""
    video = json.loads(result.read_text(encoding="utf-8"))["videos"][0]
    rgb, drawn = list_frames(frames), list_frames(poses)
    chosen = segment_starts(len(rgb), np.full(3, 0.5))
    stack = stack_indices(num_starts(len(rgb)) // 2, len(rgb), STACK_LENGTH)
    figure = Figure(figsize=(11.5, 4.2), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_images(axes, [read_image(rgb[number - 1]) for number in chosen], 0.15, 3.85, 1.15, 0.3)
    draw_images(axes, [read_image(drawn[number - 1]) for number in stack], 0.15, 1.78, 1.15, 0.11)
    axes.text(0.15, 3.95, "3 RGB frames, one of each third", fontsize=9)
    axes.text(0.15, 1.88, "pose flow: 10 following frames' skeletons", fontsize=9)
    fused = video["fused"]["probabilities"]
    names = list(fused)[:SHOWN]
    for y, stream, text in ((3.1, "spatial", "spatial\nResNet-18"), (1.0, "motion_pose", "motion\nResNet-18")):
        arrow(axes, (2.7, y), (3.1, y))
        box(axes, 3.75, y, text)
        arrow(axes, (4.4, y), (4.8, y))
        draw_bars(
            axes, video["streams"][stream]["probabilities"], names, 4.95, y + 0.55, f"{stream.split('_')[0]} stream"
        )
        arrow(axes, (7.75, y), (8.15, 2.1 + np.sign(y - 2) * 0.15))
    draw_bars(axes, fused, names, 8.3, 2.65, "logits averaged")
    axes.set(xlim=(0, 11.5), ylim=(0, 4.2), aspect="equal")
    axes.axis("off")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
