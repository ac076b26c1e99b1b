"""Features of videos, what a network's classifier sees of them: one file for all videos of a split's lists."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.atomic import atomic_write
from common.cli import UserError
from dataloader.names import Video
from dataloader.split_train_test_video import Split


@dataclass(frozen=True)
class Features:
    """Features of N videos at K evenly spaced positions."""

    features: np.ndarray  # (N, K, D)
    names: list[str]
    labels: np.ndarray  # (N,), into `classes`
    test: np.ndarray  # (N,), whether a video is in the test list
    val: np.ndarray  # (N,), or in the validation set
    classes: list[str]

    def split(self, held_out: bool = True) -> Split:
        """The lists that the features were made of; unless `held_out`, validation videos are in the training list."""
        videos = [Video(name, int(i), self.classes[i], name) for name, i in zip(self.names, self.labels, strict=True)]
        val = self.val & held_out
        parts = (~self.test & ~val, self.test, val)
        return Split(self.classes, *([videos[i] for i in np.flatnonzero(part)] for part in parts))


def save_features(path: str | os.PathLike, features: Mapping[str, np.ndarray], split: Split) -> None:
    """Write the vectors (K, D) of the split's videos, given by name, as float16, cut off at its largest number.

    Videos without vectors, which were skipped, are left out.
    """
    parts = {"train": split.train, "val": split.val, "test": split.test}
    listed = [(video, part) for part, videos in parts.items() for video in videos if video.name in features]
    most = float(np.finfo(np.float16).max)
    vectors = np.stack([features[video.name] for video, _ in listed]).clip(-most, most)
    with atomic_write(path) as file:
        np.savez(
            file,
            features=vectors.astype(np.float16),
            names=np.array([video.name for video, _ in listed]),
            labels=np.array([video.label for video, _ in listed], np.int64),
            test=np.array([part == "test" for _, part in listed], bool),
            val=np.array([part == "val" for _, part in listed], bool),
            classes=np.array(split.classes),
        )


def load_features(path: str | os.PathLike) -> Features:
    """Read what `save_features` wrote, running nothing of it; files of earlier versions have no validation set."""
    try:
        with np.load(path, allow_pickle=False) as file:
            val = file["val"] if "val" in file else np.zeros(len(file["test"]), bool)
            names, classes = file["names"].tolist(), file["classes"].tolist()
            return Features(file["features"], names, file["labels"], file["test"], val, classes)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: cannot be read as features ({reason}); write it again") from None


def join_features(paths: Sequence[Path]) -> Features:
    """The features of several streams, of the videos that all have, side by side: (N, K, D1 + D2 + …) float32."""
    files = [load_features(path) for path in paths]
    rows = [{name: row for row, name in enumerate(file.names)} for file in files]
    names = [name for name in rows[0] if all(name in row for row in rows)]
    order = [np.array([row[name] for name in names], int) for row in rows]
    lists = [np.stack([file.labels, file.test, file.val])[:, rows] for file, rows in zip(files, order, strict=True)]
    for path, file, listed in zip(paths, files, lists, strict=True):
        alike = file.classes == files[0].classes and file.features.shape[1] == files[0].features.shape[1]
        if not names or not alike or (listed != lists[0]).any():
            raise UserError(f"{paths[0]}, {path}: other classes, lists, videos or positions; write them of one split")
    vectors = [file.features[rows].astype(np.float32) for file, rows in zip(files, order, strict=True)]
    labels, test, val = lists[0]
    return Features(np.concatenate(vectors, axis=2), names, labels, test > 0, val > 0, files[0].classes)
