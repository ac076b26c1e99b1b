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

DTYPES = (np.float16, np.float32)


@dataclass(frozen=True)
class Features:
    """Features (N, K, D) of N videos at K evenly spaced positions.

    `test` is true for the videos of the test list, `val` for those of the validation set, `classes` are the names of
    the classes in the order of `labels`.
    """

    features: np.ndarray
    names: list[str]
    labels: np.ndarray
    test: np.ndarray
    val: np.ndarray
    classes: list[str]

    def split(self) -> Split:
        """The lists that the features were made of."""
        videos = [
            Video(name, label, self.classes[label], name)
            for name, label in zip(self.names, self.labels.tolist(), strict=True)
        ]
        parts = (~self.test & ~self.val, self.test, self.val)
        return Split(
            self.classes, *([video for video, there in zip(videos, part, strict=True) if there] for part in parts)
        )


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
    """Read what `save_features` wrote, running nothing of it. Raises `UserError` if it is no such file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in ("features", "names", "labels", "test", "classes")}
            val = file["val"] if "val" in file else np.zeros_like(data["test"])
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else "is a folder"
        raise UserError(f"{path}: {what}; write it with --evaluate --features FILE.npz of a stream") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: cannot be read as features ({reason}); write it again") from None
    features, names, labels, test = (data[name] for name in ("features", "names", "labels", "test"))
    shapes = {name: array.shape for name, array in data.items()}
    if (
        features.ndim != 3
        or features.dtype not in DTYPES
        or not shapes["names"] == shapes["labels"] == shapes["test"] == val.shape == (len(features),)
        or data["classes"].ndim != 1
        or not all(array.dtype.kind == kind for array, kind in zip((*data.values(), val), "fUibUb", strict=True))
    ):
        raise UserError(f"{path}: its arrays do not go together ({shapes}); write it again")
    if not features.size or not np.isfinite(features).all():
        raise UserError(f"{path}: its features are {'not finite' if features.size else 'empty'}; write it again")
    if labels.min() < 0 or labels.max() >= len(data["classes"]) or len(set(names.tolist())) < len(names):
        raise UserError(f"{path}: has labels without a class, or a video twice; write it again")
    return Features(features, names.tolist(), labels, test, val, data["classes"].tolist())


def join_features(paths: Sequence[Path]) -> Features:
    """The features of several streams, of the videos that all have, side by side: (N, K, D1 + D2 + …) float32.

    Raises `UserError` if positions or classes differ, or if a video's list or class does.
    """
    parts = [load_features(path) for path in paths]
    first, rows = parts[0], [{name: row for row, name in enumerate(part.names)} for part in parts]
    names = [name for name in first.names if all(name in row for row in rows)]
    for path, part, row in zip(paths, parts, rows, strict=True):
        if part.classes != first.classes:
            raise UserError(f"{paths[0]} and {path}: are of different classes; make them with the same --class-index")
        positions = [features.features.shape[1] for features in (first, part)]
        if positions[0] != positions[1]:
            counts = f"have {positions[0]} and {positions[1]} positions a video"
            raise UserError(f"{paths[0]} and {path}: {counts}; make them with the same --positions")
        for name in names:
            pair = [(p.labels[i], p.test[i], p.val[i]) for p, i in ((first, rows[0][name]), (part, row[name]))]
            if pair[0] != pair[1]:
                raise UserError(f"{paths[0]} and {path}: {name!r} is in different lists or classes; use one split")
    if not names:
        raise UserError(f"{', '.join(map(str, paths))}: no video is in all of them; make them of one split")
    order = [[row[name] for name in names] for row in rows]
    joined = np.concatenate(
        [part.features[index].astype(np.float32) for part, index in zip(parts, order, strict=True)], axis=2
    )
    labels, test, val = (array[order[0]] for array in (first.labels, first.test, first.val))
    return Features(joined, names, labels, test, val, first.classes)
