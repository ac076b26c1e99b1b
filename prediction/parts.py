"""Which parts of the people spoke for a class, and when: gradient times input of the skeleton stream."""

import os
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.atomic import atomic_write
from dataloader.skeleton_dataloader import MOMENTS, PEOPLE, normalized_paths, skeleton_clips, skeleton_input
from network import Model
from pose.keypoints import Keypoints
from pose.skeleton import DRAWN_LIMBS, PART_NAMES
from pose.tracking import main_paths

SHOWN = 8  # frames of the video


def part_relevance(model: Model, keypoints: Keypoints, label: int) -> np.ndarray:
    """What each part at each moment adds to the logit of the class `label`: float32 (people, 48, 18).

    The gradient of the video's mean logit times the network's input (arXiv 1605.01713), summed over the channels of a
    part and over the clips of the test.
    """
    sample = skeleton_clips(normalized_paths(keypoints))
    device = model.device
    inputs = skeleton_input(sample.images, sample.index).to(device).requires_grad_()
    (gradient,) = torch.autograd.grad(model.network(inputs).mean(0)[label], inputs)
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
    more. The map sums over people.
    """
    people, total = main_paths(keypoints, PEOPLE), relevance.sum(0)
    limit = max(np.abs(total).max(), 1e-9)
    figure = Figure(figsize=(2 * SHOWN, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    top, bottom = figure.subfigures(2, 1, height_ratios=(2, 3))  # type: ignore[misc]  # two of them
    for axes, (number, picture) in zip(np.atleast_1d(top.subplots(1, len(pictures))), pictures.items(), strict=True):
        height, width = picture.shape[:2]
        axes.imshow(picture, alpha=0.6)
        axes.set_title(f"frame {number}", fontsize=9)
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        moment = shown_frames(keypoints.num_frames)[number]
        for person, values in zip(people[:, number - 1], relevance[:, moment], strict=True):
            x, y, found = person[:, 0] * width, person[:, 1] * height, person[:, 2] > 0
            for ends in DRAWN_LIMBS:
                if found[list(ends)].all():
                    axes.plot(x[list(ends)], y[list(ends)], color="0.2", linewidth=1)
            sizes = 4 + 120 * np.abs(values[found]) / limit
            colors = {"c": values[found], "cmap": "coolwarm", "vmin": -limit, "vmax": limit}
            axes.scatter(x[found], y[found], sizes, zorder=3, edgecolors="0.2", linewidths=0.5, **colors)
    axes = bottom.subplots()
    extent = (0.5, keypoints.num_frames + 0.5, len(PART_NAMES) - 0.5, -0.5)
    image = axes.imshow(total.T, cmap="coolwarm", vmin=-limit, vmax=limit, aspect="auto", extent=extent)
    axes.set_yticks(range(len(PART_NAMES)), PART_NAMES, fontsize=8)
    axes.set_xlabel("frame")
    bottom.colorbar(image, ax=axes, label="share of the logit (gradient × input)")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)
