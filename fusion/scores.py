"""Score pickles, read by an unpickler that knows arrays alone; matched to a list, weighted by validation scores."""

import contextlib
import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.atomic import atomic_write
from common.cli import UserError
from dataloader.names import Video, first_names, listed_names
from dataloader.split_train_test_video import Split
from fusion.metrics import fuse

DTYPE = re.compile(r"f[248]|[iu][1248]|b1|[SU]\d{1,4}")


def load_scores(path: str | os.PathLike, videos: Sequence[Video] = ()) -> dict[str, np.ndarray]:
    """Read a score pickle of any protocol and numpy version: `{video name: float32 (classes,)}`, in its order.

    A vector may be a list or a row (1, classes). A list of results, as mmaction2 writes it, is of the listed `videos`
    in their order: of vectors, or dicts with `pred_score` and perhaps `gt_label`.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; test the stream first, or name another score pickle")
    content = unpickle(path)
    if isinstance(content, list) and videos:
        content = _by_name(path, content, videos)
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: holds no dict of scores by video name; test the stream again")
    return {str(name): _check_vector(path, name, value) for name, value in content.items()}


def _by_name(path: str | os.PathLike, results: list, videos: Sequence[Video]) -> dict:
    """Results in the order of a list, by name; labels in them show whether the order is the list's."""
    if len(results) != len(videos):
        raise UserError(f"{path}: has {len(results)} results, the list {len(videos)} videos; give the list of its test")
    scores = {}
    for video, result in zip(videos, results, strict=True):
        if isinstance(result, dict):
            label = result.get("gt_label", video.label)
            if np.size(label) != 1 or np.ravel(label)[0] != video.label:
                raise UserError(
                    f"{path}: its result for {video.name!r}, by the list's order, is of class {label!r:.50} and not "
                    f"{video.label}; give the list of its test, or save a dict by video name"
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
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "fiu" or not value.size:
        holds = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise UserError(f"{path}: {name!r:.100} holds {holds} and not numbers (classes,)")
    with np.errstate(over="ignore"):
        vector = np.array(value, np.float32)
    if not np.isfinite(vector).all():
        raise UserError(f"{path}: the scores of {name!r:.100} are not finite; test the stream again")
    return vector


def unpickle(path: str | os.PathLike) -> Any:
    """The content of a pickle of numpy arrays, numbers, strings, lists and dicts; one that asks for more is refused."""
    with open(path, "rb") as file:  # not read first: files of poses have a gigabyte
        try:
            if file.read(2) == b"PK":
                raise UserError("is a zip archive, as checkpoints and .npz files are; name a pickle")
            file.seek(0)
            return _ArrayUnpickler(file, encoding="latin-1").load()
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except Exception as error:  # damaged bytes end in all kinds of them
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{path}: not a readable pickle ({reason:.100}); write it again") from None


class _ArrayUnpickler(pickle.Unpickler):
    """Finds the pieces of numpy's arrays and nothing else: `pickle.load` would run whatever a file names."""

    def find_class(self, module: str, name: str):
        piece = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if piece in PIECES:
            return PIECES[piece]
        advice = "tensor.cpu().numpy() in place of tensors" if module.startswith("torch") else "plain numpy arrays"
        raise UserError(
            f"refused, as it asks for {f'{module}.{name}'!r:.100}, and numpy arrays, numbers and strings "
            f"alone are read (nothing was run); save {advice}"
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


# ---- of several streams ----


def stream_names(paths: Sequence[str]) -> list[str]:
    """A short name for each pickle, numbered where file names repeat."""
    names = [Path(path).stem.removesuffix("_video_preds") for path in paths]
    unique = len(set(names) - {"fused"}) == len(names)
    return names if unique else [f"{name} #{i}" for i, name in enumerate(names, 1)]


def load_table(path: str, videos: Sequence[Video], source: str, classes: int) -> dict[str, np.ndarray]:
    """The scores of a pickle under the names of the list `source`, one per class for each of its `videos` or fewer."""
    table = load_scores(path, videos)
    if wrong := [name for name, vector in table.items() if len(vector) != classes]:
        raise UserError(
            f"{path}: {len(table[wrong[0]])} scores of {wrong[0]!r}, the class index names {classes} classes; give "
            "the --class-index that the stream was trained with"
        )
    matched: dict[str, np.ndarray] = {}
    unknown = []
    for key, name in listed_names(table, videos).items():
        if name in matched:
            raise UserError(f"{path}: {key!r} is there in two spellings; remove one")
        if name is None:
            unknown.append(key)
        else:
            matched[name] = table[key]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of its {len(table)} videos are not in {source} ({first_names(unknown)}); "
            "give the --split and --class-index that belong to it"
        )
    return matched


def stack_scores(
    tables: Sequence[dict], videos: Sequence[Video], paths: Sequence[str], source: str, skip_missing: bool
) -> tuple[list[Video], list[np.ndarray]]:
    """The `videos` that every table has (all of them, unless `skip_missing`), and each table's (videos, classes)."""
    for table, path in zip(tables, paths, strict=True):
        missing = [video.name for video in videos if video.name not in table]
        if missing and not skip_missing:
            raise UserError(
                f"{path}: no scores for {len(missing)} of the {len(videos)} videos of {source} "
                f"({first_names(missing)}); test that stream again, or skip them with --skip-missing"
            )
    videos = [video for video in videos if all(video.name in table for table in tables)]
    if not videos:
        raise UserError(f"{', '.join(paths)}: no video of {source} is in all of them; fuse scores of one test list")
    return videos, [np.stack([table[video.name] for video in videos]) for table in tables]


def weights_from_validation(paths: Sequence[str], split: Split, skip_missing: bool) -> tuple[tuple[float, ...], dict]:
    """Weights chosen on validation scores, and how: `prec1` there, `best_prec1` of any weights, `videos`, `paths`.

    Labels come from the validation list if the split has one, else from the training list.
    """
    listed, source = (split.val, "the validation list") if split.val else (split.train, "the training list")
    for path in paths:
        if not Path(path).is_file():
            raise UserError(
                f"{path}: no validation scores; train with --val-groups, or give --val-scores "
                "(weights are never chosen on test scores)"
            )
    tables = [load_table(path, listed, source, len(split.classes)) for path in paths]
    held_out = [video for video in listed if any(video.name in table for table in tables)]
    videos, scores = stack_scores(tables, held_out, paths, "the validation set", skip_missing)
    weights, prec1, best = choose_weights(scores, np.array([video.label for video in videos]))
    return weights, {"prec1": prec1, "best_prec1": best, "videos": len(videos), "paths": list(paths)}


def choose_weights(streams: Sequence[np.ndarray], labels: np.ndarray) -> tuple[tuple[float, ...], float, float]:
    """The most even weights whose Prec@1 on validation videos is within one standard error of the best.

    `streams`: scores (N, classes) each, `labels` (N,). The standard error of the best accuracy p on n videos is
    sqrt(p (1 - p) / n); it counts as one video at least, since for p = 1 it is 0 however few videos there are.
    Taking the best weights themselves fits the noise of a small validation set. Returns the weights (sum 1),
    their Prec@1 and that of the best weights, in percent.
    """
    even = (1 / len(streams),) * len(streams)  # thirds and sevenths are not on the grid
    steps = 20 if len(streams) <= 3 else 10 if len(streams) <= 5 else 5
    candidates = (even, *weight_grid(len(streams), steps))
    hits = {weights: int((fuse(streams, weights).argmax(1) == labels).sum()) for weights in candidates}
    best = max(hits.values())
    margin = max(1.0, (best * (1 - best / len(labels))) ** 0.5)
    close = [weights for weights in hits if hits[weights] >= best - margin]
    chosen = min(close, key=lambda weights: (round(sum(weight**2 for weight in weights), 9), -hits[weights]))
    return chosen, 100 * hits[chosen] / len(labels), 100 * best / len(labels)


def weight_grid(streams: int, steps: int) -> Iterable[tuple[float, ...]]:
    """All weights that are multiples of 1/steps and sum up to 1."""
    for bars in combinations(range(steps + streams - 1), streams - 1):
        yield tuple((after - before - 1) / steps for before, after in pairwise((-1, *bars, steps + streams - 1)))
