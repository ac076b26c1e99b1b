"""Which parts of the people spoke for a class, and when: gradient times input of the skeleton stream."""

import os
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from dataloader.skeleton_dataloader import MOMENTS, PEOPLE, normalized_paths, skeleton_clips, skeleton_input
from fusion.plots import printable, write_png
from network import Model
from pose.keypoints import Keypoints
from pose.people import main_paths
from pose.skeleton import DRAWN_LIMBS, PART_NAMES

SHOWN = 8  # frames of the video
FOR_COLOR, AGAINST_COLOR = "#b2182b", "#2166ac"


def part_relevance(model: Model, keypoints: Keypoints, label: int) -> np.ndarray:
    """What each part at each moment says for the class `label` rather than others: float32 (people, 48, 18).

    The gradient times the network's input (arXiv 1605.01713) of the class's logit above the mean of all classes' (what
    all share tells them not apart), summed over the channels of a part and over the clips of the test.
    """
    sample = skeleton_clips(normalized_paths(keypoints))
    device = model.device
    inputs = skeleton_input(sample.images, sample.index).to(device).requires_grad_()
    logits = model.network(inputs).mean(0)
    (gradient,) = torch.autograd.grad(logits[label] - logits.mean(), inputs)
    return (gradient * inputs).detach().sum((0, 2)).cpu().numpy()


def shown_frames(num_frames: int) -> dict[int, int]:
    """The numbers of up to 8 frames, from 1, spread evenly, and the moment that each belongs to."""
    moments = ((np.arange(SHOWN) + 0.5) * MOMENTS / SHOWN).astype(int)
    frames = 1 + ((moments + 0.5) / MOMENTS * num_frames).astype(int)
    return dict(zip(frames.clip(1, num_frames).tolist(), moments.tolist(), strict=True))


def write_parts(
    path: str | os.PathLike, pictures: Mapping[int, np.ndarray], keypoints: Keypoints, relevance: np.ndarray, title: str
) -> None:
    """Write a PNG: the `shown_frames`, by number, with the chosen people on them, and a map of parts over time.

    `relevance` is that of `part_relevance`. Red parts spoke for the class, blue ones against it; the larger a disc, the
    more. The pictures are cut to where people are in any of them. The map sums over people, the bars beside it over
    time; the dotted lines are the pictures' frames.
    """
    people, total = main_paths(keypoints, PEOPLE)[0], relevance.sum(0)
    limit = max(np.abs(total).max(), 1e-9)
    colors = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    left, right, top, bottom = people_window(people[:, [number - 1 for number in pictures]])
    height, width = next(iter(pictures.values())).shape[:2]
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    tall = min(max(12 / columns * (bottom - top) * height / ((right - left) * width), 2), 3)  # inches of a picture
    figure = Figure(figsize=(13, 5.5 + (tall + 0.35) * rows), layout="constrained")
    figure.suptitle(printable(title, 100), fontsize=13)
    above, below = figure.subfigures(2, 1, height_ratios=((tall + 0.35) * rows, 5))  # type: ignore[misc]  # two of them
    grid = list(above.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.axis("off")
    for axes, (number, picture) in zip(grid, pictures.items(), strict=False):
        axes.imshow(picture, alpha=0.6, extent=(0, 1, 1, 0), aspect=height / width)
        axes.set(title=f"frame {number}", xlim=(left, right), ylim=(bottom, top))
        moment = shown_frames(keypoints.num_frames)[number]
        for person, values in zip(people[:, number - 1], relevance[:, moment], strict=True):
            x, y, found = person[:, 0], person[:, 1], person[:, 2] > 0
            for ends in map(list, DRAWN_LIMBS):
                if found[ends].all():
                    axes.plot(x[ends], y[ends], color="0.2", linewidth=1.5)
            sizes = 12 + 300 * np.abs(values[found]) / limit
            axes.scatter(x[found], y[found], sizes, values[found], zorder=3, edgecolors="0.2", linewidths=0.7, **colors)
    over_time, sums = below.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    extent = (0.5, keypoints.num_frames + 0.5, len(PART_NAMES) - 0.5, -0.5)
    image = over_time.imshow(total.T, aspect="auto", interpolation="nearest", extent=extent, **colors)
    over_time.set_yticks(range(len(PART_NAMES)), PART_NAMES, fontsize=9)
    over_time.set(xlabel="frame")
    for number in pictures:
        over_time.axvline(number, color="0.4", linewidth=0.8, linestyle=":")
    values = total.sum(0)
    sums.barh(range(len(PART_NAMES)), values, color=np.where(values > 0, FOR_COLOR, AGAINST_COLOR))
    sums.set(xlabel="sum over the frames")
    sums.axvline(0, color="0.4", linewidth=0.8)
    sums.tick_params(left=False)
    sums.spines[["top", "right", "left"]].set_visible(False)
    label = "share of the class's logit (gradient × input)\n← against it        for it →"
    below.colorbar(image, ax=[over_time, sums], label=label)
    write_png(figure, path)


def people_window(people: np.ndarray) -> tuple[float, float, float, float]:
    """Left, right, top and bottom, in [0, 1] of the frame, of where `people` (P, T, 18, 3) are, with room around.

    At least a third of the frame each way; all of it if there is nobody.
    """
    found = people[people[..., 2] > 0][:, :2]
    if not len(found):
        return 0.0, 1.0, 0.0, 1.0
    low, high = found.min(0).clip(0, 1), found.max(0).clip(0, 1)
    half = ((high - low) * 0.65).clip(1 / 6, 0.5)
    centre = ((low + high) / 2).clip(half, 1 - half)
    (left, top), (right, bottom) = (centre - half).tolist(), (centre + half).tolist()
    return left, right, top, bottom
