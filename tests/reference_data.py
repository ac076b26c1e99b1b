"""The numbers in tests/data/ that tests compare with; README.md there says where they come from."""

import csv
import json
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).resolve().parent / "data"
STREAM_NAMES = ("spatial", "motion_pose")
REAL_IMAGES = ("ski", "exercise_120")


class RealPose(NamedTuple):
    """A pose network's output on a real image, and what the original pipeline makes of it.

    `heatmaps` float32 (46, 54, 19), `pafs` float32 (46, 54, 38), `people` float32 (P, 18, 3), `scores` (P,),
    `frame_size` (height, width) of the image, `drawing` uint8 (224, 224, 3) RGB.
    """

    heatmaps: np.ndarray
    pafs: np.ndarray
    people: np.ndarray
    scores: np.ndarray
    frame_size: tuple[int, int]
    drawing: np.ndarray


def real_pose(name: str) -> RealPose:
    """Maps, people and drawing of one of `REAL_IMAGES`."""
    with np.load(DATA / f"pose_{name}.npz") as arrays:
        maps = [arrays[which].astype(np.float32) for which in ("heatmaps", "pafs")]
        size = tuple(arrays["frame_size"].tolist())
        return RealPose(*maps, arrays["people"], arrays["scores"], size, arrays["drawing"])


def reference_scores(stream: str) -> dict[str, np.ndarray]:
    """The original authors' scores of a stream: 550 videos of split 04, float32 (15,) each."""
    with np.load(DATA / "reference_scores.npz") as arrays:
        return dict(zip(arrays["names"].tolist(), arrays[stream], strict=True))


def write_reference_pickles(folder: Path) -> list[Path]:
    """Both streams' scores as the pickles that the original code wrote, with numpy 1 and protocol 3."""
    paths = []
    for stream in STREAM_NAMES:
        content = pickle.dumps(reference_scores(stream), protocol=3)
        paths.append(folder / f"{stream}_video_preds.pickle")
        paths[-1].write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    return paths


def state_dict_shapes(network: str) -> dict[str, list[int]]:
    """Shapes by name of the original's `spatial` and `motion_pose` networks and of `openpose_vgg19`."""
    return json.loads((DATA / "state_dicts.json").read_text())[network]


def ucf101_lengths() -> dict[int, int]:
    """How many of UCF101's 13,320 videos have each number of frames."""
    with open(DATA / "ucf101_lengths.csv", newline="") as file:
        return {int(row["frames"]): int(row["videos"]) for row in csv.DictReader(file)}
