"""Score pickles, read without running anything: numpy arrays, numbers and strings are all that comes out.

`pickle.load` calls whatever the file names. Here the opcodes are interpreted by a small machine of our own:
the handful of names that pickled numpy arrays use stand for checks written below, every other name is
refused, and numpy sees no more than plain bytes whose kind and size have been verified.
"""

import math
import os
import pickle
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.atomic import atomic_write
from common.cli import UserError

MAX_DEPTH = 50
ALLOWED_NAMES = re.compile(
    r"numpy\._?core\.multiarray (_reconstruct|scalar)|numpy\._?core\.numeric _frombuffer|numpy (ndarray|dtype)"
    r"|_codecs encode|(builtins|__builtin__) bytes"
)
DTYPE = re.compile(r"f[248]|[iu][1248]|b1|[US][1-9][0-9]{0,5}")
VALUES = frozenset(
    (
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    )
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load_scores(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a score pickle: `{video name: float32 (classes,)}`, in the file's order.

    A leading `v_` of a name is dropped, a row vector (1, classes) is taken as (classes,). Raises `UserError`
    if the file cannot be read or holds anything else than finite number vectors of one length per name.
    """
    content = load_pickle(path)
    if not isinstance(content, dict) or not content:
        what = "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise UserError(f"{path}: holds {what} and not a dict of scores by video; test the stream again")
    scores, vectors = {}, {}
    for key, value in content.items():
        if not isinstance(key, str) or key in ("", "v_"):
            raise UserError(f"{path}: {_show(key)} is no video's name; save a dict of arrays by video name")
        parent, slash, stem = key.rpartition("/")
        name = parent + slash + stem.removeprefix("v_")
        if name in scores:
            raise UserError(f"{path}: {_show(name)} is there twice, with v_ and without; remove one")
        if id(value) not in vectors:
            vectors[id(value)] = _check_vector(path, key, value)
        scores[name] = vectors[id(value)]
        first = next(iter(scores))
        if len(scores[name]) != len(scores[first]):
            sizes = f"{_show(key)} has {len(scores[name])} scores, {_show(first)} has {len(scores[first])}"
            raise UserError(f"{path}: {sizes}; one per class is expected")
    return scores


def save_scores(path: str | os.PathLike, scores: Mapping[str, np.ndarray]) -> None:
    """Write `{video name: (classes,) numbers}` as a plain pickle of float32 arrays, whole or not at all.

    The order of `scores` is kept. Raises `UserError` if a vector is not finite.
    """
    vectors = {str(name): _check_vector(path, name, np.asarray(row)) for name, row in scores.items()}
    with atomic_write(path) as file:
        pickle.dump(vectors, file, protocol=4)


def load_pickle(source: str | os.PathLike | bytes):
    """Read a pickle (protocols 0–5) of numbers, strings, numpy arrays and scalars, lists, tuples, dicts.

    Arrays may be float, integer, bool or string ones, written by numpy 1 or 2; they come back in native byte
    order and may be read-only. Nothing that the file names is imported or called. Raises `UserError`, and
    nothing else, for what is not such a pickle.
    """
    if isinstance(source, bytes | bytearray):
        name, data = "pickle", bytes(source)
    else:
        name, data = source, _read(Path(source))
    try:
        return _finish(_interpret(data), {}, 0)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except Exception as error:  # damaged or hostile bytes end in all kinds of them
        reason = _show(f"{type(error).__name__}: {error}")[1:-1]
        raise UserError(f"{name}: not a readable pickle of scores ({reason}); write it again") from None


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "not a regular file" if path.exists() else "no such file"
            raise UserError(f"{path}: {what}; test the stream first, or name another score pickle")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _check_vector(path, name, value) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise UserError(f"{path}: {_show(name)} holds a {type(value).__name__} and not a numpy vector")
    if value.ndim == 2 and len(value) == 1:
        value = value[0]
    if value.ndim != 1 or value.dtype.kind not in "fiu" or not value.size:
        raise UserError(f"{path}: {_show(name)} holds {value.dtype} {value.shape} and not numbers (classes,)")
    with np.errstate(over="ignore"):
        vector = value.astype(np.float32)
    if not np.isfinite(vector).all():
        raise UserError(f"{path}: the scores of {_show(name)} are not finite; test the stream again")
    return vector


# ---- the machine ----


class _Name:
    """A permitted name in the file; it stands for a check below, never for the object of that name."""

    def __init__(self, kind: str):
        self.kind = kind


class _DType:
    """A dtype as the file describes it."""

    def __init__(self, spec):
        if not isinstance(spec, str) or not DTYPE.fullmatch(spec):
            raise UserError(f"holds a numpy array of type {_show(spec)}; save plain float32 arrays")
        self.spec, self.order = spec, "="

    def build(self, state, budget) -> None:
        plain = isinstance(state, tuple) and len(state) >= 5 and not any(state[2:5])
        if not plain or state[1] not in ("<", ">", "|", "="):
            raise UserError("holds a numpy array of a structured or damaged type; save plain float32 arrays")
        self.order = state[1]


class _Array:
    """An array announced by the file; `value` comes with its state."""

    value = None

    def build(self, state, budget) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise UserError("holds a numpy array in a damaged state; write the file again")
        shape, dtype, fortran, data = state[-4:]
        self.value = _array(dtype, shape, data, "F" if fortran is True or fortran == 1 else "C", budget)


def _interpret(data: bytes):
    """Run the pickle `data` and return what it leaves: plain values, containers and the classes above."""
    stack, marks, memo = [], [], {}
    budget = [len(data)]  # bytes of all arrays: an honest file contains each, a bomb repeats one
    if data.startswith(b"PK"):
        raise UserError("is a zip archive, as checkpoints and .npz files are; name a score pickle")

    def since_mark() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, position in pickletools.genops(data):
        code = opcode.name
        if code in VALUES:
            stack.append(argument)
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code == "MARK":
            marks.append(len(stack))
        elif code in TUPLES:
            stack[-TUPLES[code] :] = [tuple(stack[-TUPLES[code] :])]
        elif code in ("TUPLE", "LIST", "DICT"):
            items = since_mark()
            stack.append(tuple(items) if code == "TUPLE" else items if code == "LIST" else _set_items({}, items))
        elif code in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if code == "EMPTY_LIST" else {})
        elif code in ("APPEND", "APPENDS"):
            items = since_mark() if code == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list).extend(items)
        elif code in ("SETITEM", "SETITEMS"):
            items = since_mark() if code == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            _set_items(_expect(stack[-1], dict), items)
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            if code == "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                argument = f"{_expect(module, str)} {_expect(name, str)}"
            stack.append(_allow(argument))
        elif code == "REDUCE":
            arguments = _expect(stack.pop(), tuple)
            stack.append(_call(_expect(stack.pop(), _Name).kind, arguments, budget))
        elif code == "BUILD":
            state = stack.pop()
            _expect(stack[-1], (_Array, _DType)).build(state, budget)
        elif code == "FRAME":
            if argument > len(data) - position - 9:
                raise UserError("the file is cut off or damaged; write it again")
        elif code == "STOP":
            return stack.pop()
        elif code != "PROTO":
            raise UserError(f"pickle instruction {code} is refused; save a dict of numpy arrays")
    raise UserError("the file ends too early; write it again")


def _allow(name: str) -> _Name:
    if ALLOWED_NAMES.fullmatch(name):
        return _Name(name.split()[1])
    advice = "tensor.cpu().numpy() in place of tensors" if name.startswith("torch") else "plain numpy arrays"
    raise UserError(
        f"refused, as it asks for {_show(name.replace(' ', '.'))}, and scores are numpy arrays, "
        f"numbers and strings only (nothing was run); save {advice}"
    )


def _call(kind: str, arguments: tuple, budget: list):
    """What the file means by `kind(*arguments)`."""
    if kind == "_reconstruct" and len(arguments) == 3 and getattr(arguments[0], "kind", None) == "ndarray":
        return _Array()
    if kind == "dtype" and arguments:
        return _DType(arguments[0])
    if kind == "scalar" and len(arguments) == 2:
        return _array(arguments[0], (), arguments[1], "C", budget)[()]
    if kind == "_frombuffer" and len(arguments) >= 4:
        return _array(arguments[1], arguments[2], arguments[0], arguments[3], budget)
    if kind == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
        return _expect(arguments[0], str).encode("latin-1")
    if kind == "bytes" and not arguments:
        return b""
    raise UserError(f"calls {kind} in a way that no numpy array needs; save a dict of numpy arrays")


def _array(dtype, shape, data, order, budget: list) -> np.ndarray:
    """Array of `data` after checks of kind, shape and size."""
    spec, byte_order = _expect(dtype, _DType).spec, dtype.order
    if isinstance(data, str):  # written by Python 2
        data = data.encode("latin-1")
    plain = all(type(n) is int and 0 <= n < 2**40 for n in _expect(shape, tuple))
    if not plain or len(shape) > 32 or order not in ("C", "F") or not isinstance(data, bytes | bytearray):
        raise UserError("holds a numpy array of unexpected shape, order or content; save 1-D float32 arrays")
    dtype = np.dtype(byte_order + spec)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise UserError(f"{len(data)} bytes do not make a {dtype} array of shape {shape}; write the file again")
    budget[0] -= len(data)
    if budget[0] < 0:
        raise UserError("the arrays are larger than the file itself; write it again")
    if dtype.kind == "b":
        array = np.frombuffer(data, np.uint8) != 0
    else:
        array = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "U" and (array.view(np.uint32) > 0x10FFFF).any():
        raise UserError("holds a numpy string of invalid characters; write the file again")
    return array.reshape(shape, order=order)


def _finish(value, done: dict, depth: int):
    """Put the arrays in place of their announcements; each container is visited once."""
    if value is None or isinstance(value, bool | int | float | str | bytes | np.ndarray | np.generic):
        return value
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    if not isinstance(value, list | tuple | dict):
        raise UserError("holds a numpy type or function on its own; save a dict of numpy arrays")
    if id(value) in done and done[id(value)] is not None:
        return done[id(value)]
    if id(value) in done or depth == MAX_DEPTH:
        raise UserError("is nested too deeply or contains itself; save a dict of numpy arrays")
    done[id(value)] = None
    if isinstance(value, dict):
        result = {key: _finish(item, done, depth + 1) for key, item in value.items()}
    else:
        result = type(value)([_finish(item, done, depth + 1) for item in value])
    done[id(value)] = result
    return result


def _set_items(target: dict, items: list) -> dict:
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_expect(key, (str, int, float, bytes, type(None)))] = value
    return target


def _expect(value, kind):
    if not isinstance(value, kind):
        raise UserError("the file is damaged or not a pickle of scores; write it again")
    return value


def _show(value) -> str:
    """Short, printable form of what may be huge or hostile."""
    if not isinstance(value, str | bytes):
        return f"a value of type {type(value).__name__}"
    return repr(value[:100]) + ("…" if len(value) > 100 else "")
