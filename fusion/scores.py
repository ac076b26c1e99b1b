"""Score pickles: written as dicts of float32 arrays by video name, read by an unpickler that knows arrays alone."""

import contextlib
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.atomic import atomic_write
from common.cli import UserError
from dataloader.names import Video, without_prefix

DTYPE = re.compile(r"f[248]|[iu][1248]|b1|[SU]\d{1,4}")


def load_scores(path: str | os.PathLike, videos: Sequence[Video] = ()) -> dict[str, np.ndarray]:
    """Read a score pickle of any protocol and numpy version: `{video name: float32 (classes,)}`, in its order.

    A leading `v_` of a name is dropped; a vector may be a list or a row (1, classes). A list of results, as mmaction2
    writes it, is of the listed `videos` in their order: of vectors, or dicts with `pred_score` and perhaps `gt_label`.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "no such file"
        raise UserError(f"{path}: {what}; test the stream first, or name another score pickle")
    content = unpickle(path)
    if isinstance(content, list) and videos:
        content = _by_name(path, content, videos)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds no dict of scores by video name; test the stream again")
    scores: dict[str, np.ndarray] = {}
    for key, value in content.items():
        if not isinstance(key, str) or key in ("", "v_"):
            raise UserError(f"{path}: {key!r:.100} is no video's name; save a dict of arrays by video name")
        name = without_prefix(key)
        if name in scores:
            raise UserError(f"{path}: {name!r:.100} is there twice, with v_ and without; remove one")
        scores[name] = _check_vector(path, key, value)
        first, size = next(iter(scores)), len(scores[name])
        if size != len(scores[first]):
            sizes = f"{key!r:.100} has {size} scores, {first!r:.100} has {len(scores[first])}"
            raise UserError(f"{path}: {sizes}; one per class is expected")
    return scores


def _by_name(path: Path, results: list, videos: Sequence[Video]) -> dict:
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
    """Write `{video name: (classes,) numbers}` as float32 arrays; raises `UserError` if one is not finite."""
    vectors = {str(name): _check_vector(path, name, np.asarray(row)) for name, row in scores.items()}
    with atomic_write(path) as file:
        pickle.dump(vectors, file, protocol=4)


def _check_vector(path: str | os.PathLike, name: str, value: object) -> np.ndarray:
    if isinstance(value, (list, tuple)):
        with contextlib.suppress(ValueError):  # rows of different lengths
            value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise UserError(f"{path}: {name!r:.100} holds a {type(value).__name__} and not a numpy vector")
    if value.ndim == 2 and len(value) == 1:
        value = value[0]
    if value.ndim != 1 or value.dtype.kind not in "fiu" or not value.size:
        raise UserError(f"{path}: {name!r:.100} holds {value.dtype} {value.shape} and not numbers (classes,)")
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
