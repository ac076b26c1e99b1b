"""Score pickles: read by an unpickler that knows arrays alone, matched to a list; weights from validation scores."""

import contextlib
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.atomic import atomic_write
from common.cli import UserError
from dataloader.names import Video, first_names, listed_names
from dataloader.split_train_test_video import Split
from fusion.metrics import fitted_losses, fuse

DTYPE = re.compile(r"f[248]|[iu][1248]|b1|[SU]\d{1,4}")


def load_scores(path: str | os.PathLike, videos: Sequence[Video] = ()) -> dict[str, np.ndarray]:
    """Read a score pickle of any protocol and numpy version: `{video name: float32 (classes,)}`, in its order.

    A vector may be a list or a row (1, classes). A list of results, as mmaction2 writes it, is of the listed `videos`
    in their order: of vectors, or dicts with `pred_score` and perhaps `gt_label`.
    """
    content = unpickle(path)
    if isinstance(content, list) and videos:
        content = _by_name(path, content, videos)
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: holds no dict of scores by video name; test the stream again")
    return {str(name): _check_vector(path, name, value) for name, value in content.items()}


def _by_name(path: str | os.PathLike, results: list, videos: Sequence[Video]) -> dict:
    """Name results that are in the order of a list; their labels, if any, show whether it is that list's order."""
    if len(results) != len(videos):
        raise UserError(f"{path}: has {len(results)} results, the list {len(videos)} videos; give the list of its test")
    scores = {}
    for video, result in zip(videos, results, strict=True):
        if isinstance(result, dict):
            if not np.array_equal(np.ravel(result.get("gt_label", video.label)), [video.label]):
                raise UserError(
                    f"{path}: its result for {video.name!r}, by the list's order, is of another class; "
                    "give the list of its test, or save a dict by video name"
                )
            result = result.get("pred_score")
        scores[video.name] = result
    return scores


def save_scores(path: str | os.PathLike, scores: Mapping[str, np.ndarray]) -> None:
    """Write `{video name: (classes,) numbers}` as float32 arrays."""
    vectors = {str(name): _check_vector(path, name, np.asarray(row)) for name, row in scores.items()}
    with atomic_write(path) as file:
        pickle.dump(vectors, file, protocol=4)


def _check_vector(path: str | os.PathLike, name: str, value: object) -> np.ndarray:
    if isinstance(value, (list, tuple)):
        with contextlib.suppress(ValueError):  # rows of different lengths
            value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.ndim == 2 and len(value) == 1:
        value = value[0]
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.size and value.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            vector = np.array(value, np.float32)
        if np.isfinite(vector).all():
            return vector
    found = f"{getattr(value, 'dtype', type(value).__name__)} {getattr(value, 'shape', '')}".strip()
    raise UserError(f"{path}: {name!r:.100} holds {found}, it must be finite numbers (classes,); test the stream again")


# ---- reading pickles of others ----


def unpickle(path: str | os.PathLike) -> Any:
    """The content of a pickle of numpy arrays, numbers, strings, lists and dicts; one that asks for more is refused."""
    with open(path, "rb") as file:  # not read first: files of poses have a gigabyte
        try:
            return _ArrayUnpickler(file, encoding="latin-1").load()
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except Exception as error:  # damaged bytes end in all kinds of them
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{path}: not a readable pickle ({reason:.100}); name a score pickle") from None


class _ArrayUnpickler(pickle.Unpickler):
    """Finds the pieces of numpy's arrays and nothing else: `pickle.load` would run whatever a file names."""

    def find_class(self, module: str, name: str):
        piece = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if piece in PIECES:
            return PIECES[piece]
        raise UserError(
            f"refused, as it asks for {f'{module}.{name}'!r:.100}, and numpy arrays, numbers and strings "
            "alone are read (nothing was run); save plain arrays, such as tensor.cpu().numpy()"
        )


class _DType:
    """A dtype in a file: numpy's own crashes Python where the state that follows is damaged."""

    def __init__(self, spec: str, *_: object):
        if not DTYPE.fullmatch(spec):
            raise UserError(f"holds a numpy array of type {spec!r:.100}; save plain float32 arrays")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array in a file, whose dtype is a `_DType`."""

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, fortran, data = state
        super().__setstate__((1, shape, dtype.dtype, fortran, data))


def _from_buffer(data: bytes, dtype: _DType, shape: tuple, order: Literal["C", "F"], *_: object) -> np.ndarray:
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


PIECES = {
    "numpy.ndarray": None,  # an argument of _reconstruct; called itself, it can take any bytes for objects
    "numpy.dtype": _DType,
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(0),
    "numpy.core.multiarray.scalar": lambda dtype, data: np.frombuffer(data, dtype.dtype)[0],
    "numpy.core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": lambda text, _: text.encode("latin-1"),  # how protocols 0–2 write bytes
    "builtins.bytes": bytes,
    "__builtin__.bytes": bytes,
}


# ---- several streams ----


def load_table(path: str, videos: Sequence[Video], source: str, classes: int) -> dict[str, np.ndarray]:
    """The scores of a pickle under the names of the list `source`, one per class for each of its `videos` or fewer."""
    table = load_scores(path, videos)
    if wrong := [name for name, vector in table.items() if len(vector) != classes]:
        raise UserError(
            f"{path}: {len(table[wrong[0]])} scores of {wrong[0]!r}, the class index names {classes} classes; give "
            "the --class-index that the stream was trained with"
        )
    names = listed_names(table, videos)
    if unknown := [key for key, name in names.items() if name is None]:
        raise UserError(
            f"{path}: {len(unknown)} of its {len(table)} videos are not in {source} ({first_names(unknown)}); "
            "give the --split and --class-index that belong to it"
        )
    return {name: table[key] for key, name in names.items() if name}


def stack_scores(
    tables: Sequence[dict], videos: Sequence[Video], paths: Sequence[str], source: str, skip_missing: bool
) -> tuple[list[Video], list[np.ndarray]]:
    """The `videos` that every table has (all of them, unless `skip_missing`), and each table's (videos, classes)."""
    common = [video for video in videos if all(video.name in table for table in tables)]
    if not common or (len(common) < len(videos) and not skip_missing):
        table, path = min(zip(tables, paths, strict=True), key=lambda pair: len(pair[0]))
        missing = [video.name for video in videos if video.name not in table]
        raise UserError(
            f"{path}: no scores for {len(missing)} of the {len(videos)} videos of {source} ({first_names(missing)}); "
            "test that stream again, or skip the videos that not every PICKLE has with --skip-missing"
        )
    return common, [np.stack([table[video.name] for video in common]) for table in tables]


def load_validation(paths: Sequence[str], split: Split, skip_missing: bool) -> tuple[list[Video], list[np.ndarray]]:
    """The validation videos, of the split's validation list or else of its training list, and each stream's scores."""
    listed, source = (split.val, "the validation list") if split.val else (split.train, "the training list")
    for path in paths:
        if not Path(path).is_file():
            raise UserError(
                f"{path}: no validation scores; train with --val-groups, or give --val-scores "
                "(weights are never chosen on test scores)"
            )
    tables = [load_table(path, listed, source, len(split.classes)) for path in paths]
    held_out = [video for video in listed if any(video.name in table for table in tables)]
    return stack_scores(tables, held_out, paths, "the validation set", skip_missing)


def choose_weights(streams: Sequence[np.ndarray], labels: np.ndarray) -> tuple[float, ...]:
    """The most even weights, of sum 1, whose loss on validation videos is within one standard error of the least.

    `streams`: scores (N, classes) each, `labels` (N,). The loss is the cross-entropy at the temperature that suits the
    weights; the standard error is that of the difference between two fusions of the same videos. Prec@1 tells fusions
    apart on some hundred videos only: its standard error hid streams that add nothing. The least loss itself fits
    the noise of a small validation set.
    """
    steps = {2: 20, 3: 10}.get(len(streams), 5)
    grid = [parts for parts in product(range(steps + 1), repeat=len(streams)) if sum(parts) == steps]
    even = (1 / len(streams),) * len(streams)  # thirds and sevenths are not on the grid
    candidates = [even, *(tuple(part / steps for part in parts) for parts in grid)]
    losses = np.stack([fitted_losses(fuse(streams, weights), labels) for weights in candidates])
    excess = losses - losses[losses.mean(1).argmin()]
    errors = excess.std(1) / max(len(labels) - 1, 1) ** 0.5
    close = np.flatnonzero(excess.mean(1) <= errors + 1e-9)  # equal streams differ by rounding
    best = min(close, key=lambda i: (round(sum(weight**2 for weight in candidates[i]), 9), excess[i].mean()))
    return candidates[best]
