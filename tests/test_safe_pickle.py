"""Score pickles: what is read, what is refused, and attacks on the allow-list."""

import collections
import functools
import operator
import os
import pickle
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.cli import UserError
from fusion.scores import load_scores, save_scores
from tests.reference_data import reference_scores, write_reference_pickles

CLASSES = 4


def make_scores(videos=3, classes=CLASSES, seed=0):
    random_numbers = np.random.default_rng(seed)
    return {f"Class_g01_c{i:02d}": random_numbers.normal(size=classes).astype("f4") for i in range(videos)}


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def assert_same(result, expected):
    assert list(result) == list(expected)
    for name, vector in result.items():
        assert vector.dtype == np.float32 and vector.shape == expected[name].shape
        np.testing.assert_array_equal(vector, expected[name].astype("f4"))


# ---- what is read ----


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_and_number_type(tmp_path, protocol):
    for dtype in ("<f2", "<f4", ">f4", "<f8", "<i8", ">i2", "u1"):
        scores = {name: (vector * 50 + 100).astype(dtype) for name, vector in make_scores().items()}
        assert_same(load_scores(write(tmp_path / "scores.pickle", scores, protocol)), scores)
    fortran = np.asfortranarray(np.arange(5.0)[None])
    for value in (np.arange(10)[::2], np.arange(8.0).reshape(2, 4).T[3], fortran, np.arange(4, dtype="f4")[None, ::-1]):
        path = write(tmp_path / "scores.pickle", {"a": value, "b": value}, protocol)
        assert_same(load_scores(path), {"a": value.ravel(), "b": value.ravel()})
    names = np.array(["Umlaut ä", "跳"])
    path = write(tmp_path / "scores.pickle", {name: np.ones(2) for name in names}, protocol)
    assert [(type(name), name) for name in load_scores(path)] == [(str, "Umlaut ä"), (str, "跳")]


@pytest.mark.parametrize("protocol", range(5))
def test_files_of_numpy_1_and_2(tmp_path, protocol):
    scores = make_scores()
    data = pickle.dumps(scores, protocol=protocol)
    assert b"numpy._core.multiarray" in data or b"numpy.core.multiarray" in data
    if protocol == 4:  # lengths precede the strings and the frame
        old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
        old = old[:3] + struct.pack("<Q", len(old) - 11) + old[11:]
    else:
        old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for number, content in enumerate((data, old)):
        path = tmp_path / f"{number}.pickle"
        path.write_bytes(content)
        assert_same(load_scores(path), scores)


def test_python_2_file(tmp_path):
    (tmp_path / "scores.pickle").write_bytes(
        b"(dp0\nS'v_A_g01_c01'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\n"
        b"S'b'\np5\ntp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\n"
        b"p13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\x00@'\np15\ntp16\nbs."
    )
    np.testing.assert_array_equal(load_scores(tmp_path / "scores.pickle")["v_A_g01_c01"], [0, 2])


def test_save_round_trip(tmp_path):
    scores = {"Übung 1/v.a-b": np.arange(3), "A": np.arange(6.0)[::2], "跳": np.float16([1, 2, 3])}
    path = tmp_path / "new" / "scores.pickle"
    save_scores(path, scores)
    assert_same(load_scores(path), scores)
    with path.open("rb") as file:
        assert_same(pickle.load(file), scores)
    before = path.read_bytes()
    for bad in (np.float32([0, np.nan]), np.ones((2, 2)), np.array(["a"]), np.float64([1e300])):
        with pytest.raises(UserError, match="'bad'"):
            save_scores(path, {"good": np.ones(2), "bad": bad})
    assert path.read_bytes() == before and os.listdir(path.parent) == ["scores.pickle"]


def test_reference_scores(tmp_path):
    for path in write_reference_pickles(tmp_path):
        assert b"numpy.core.multiarray" in path.read_bytes()
        expected = reference_scores(path.name.removesuffix("_video_preds.pickle"))
        assert len(expected) == 550
        assert_same(load_scores(path), expected)


# ---- what is refused, as data ----


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "holds no dict of scores"),
        ([1], "holds no dict of scores"),
        ({1: np.ones(2)}, "holds no dict of scores"),
        ({"A": [1.0, [2.0]]}, "'A' holds list"),
        ({"A": [1.0, "b"]}, "'A' holds <U"),
        ({"A": 1.0}, "'A' holds float"),
        ({"A": np.ones((2, 3))}, "'A' holds float64 (2, 3)"),
        ({"A": np.array(1.0)}, "'A'"),
        ({"A": np.array([True])}, "'A'"),
        ({"A": np.float32([1, np.nan])}, "must be finite"),
        ({"A": np.float64([1e39])}, "must be finite"),
        ({"A": np.array([1, "a"], dtype=object)}, "'O8'"),
        ({"A": np.zeros(2, "f4,i4")}, "array of type"),
        ({"A": collections.OrderedDict()}, "collections.OrderedDict"),
        ({"A": np.float32}, "numpy.float32"),
        ({"A": np.dtype("f4")}, "'A' holds"),
        ({"A": np.ndarray}, "'A' holds NoneType"),
    ],
)
def test_refused_content(tmp_path, content, words):
    with pytest.raises(UserError) as caught:
        load_scores(write(tmp_path / "scores.pickle", content))
    assert str(tmp_path / "scores.pickle") in str(caught.value)
    assert words in str(caught.value)


def test_torch_tensors_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"torch\..*tensor.cpu\(\).numpy\(\)"):
        load_scores(write(tmp_path / "scores.pickle", {"A": torch.ones(3)}))
    torch.save({"A": torch.ones(3)}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match="not a readable pickle"):
        load_scores(tmp_path / "model.pth.tar")


# ---- fuzzing ----


@pytest.fixture(scope="module")
def little_memory():
    """2 GiB more than now: four bytes of a damaged pickle can ask for 64 GiB, which has ended a test machine."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("the size of a process is read from /proc")
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_damaged_memo_index_is_refused(tmp_path, little_memory):
    path = tmp_path / "scores.pickle"
    path.write_bytes(b"\x80\x04}r" + struct.pack("<I", 1_300_000_000) + b".")
    with pytest.raises(UserError, match="not a readable pickle .MemoryError"):
        load_scores(path)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), protocol=st.integers(0, 5), changes=st.integers(1, 6))
def test_fuzz_mutated_scores(tmp_path, little_memory, seed, protocol, changes):
    """Bytes of a valid pickle are changed, removed, doubled, swapped, or cut off."""
    dice = random.Random(seed)
    data = bytearray(pickle.dumps(make_scores(2), protocol=protocol))
    for _ in range(changes):
        place, length = dice.randrange(len(data) + 1), dice.choice((1, 1, 2, 8, 30))
        change = dice.randrange(5)
        if change == 0:
            data[place : place + length] = dice.randbytes(length)
        elif change == 1:
            del data[place : place + length]
        elif change == 2:
            data[place:place] = data[place : place + length]
        elif change == 3:
            other = dice.randrange(len(data) + 1)
            data[place : place + length] = data[other : other + length]
        else:
            data[place : place + 1] = dice.choice(
                (b"\x81", b"R", b"b", b"c", b"o", b"i", b"P", b"\x93", b"h\x00", b"s")
            )
    path = tmp_path / "scores.pickle"
    path.write_bytes(data)
    try:
        scores = load_scores(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert scores and all(vector.dtype == np.float32 and vector.ndim == 1 for vector in scores.values())


# ---- attacks ----


class Call:
    """Pickles as `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def global_call(module, name, *arguments):
    """Pickle, protocol 2, that calls `module.name(*arguments)`, whether or not that exists here."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + pickle.dumps(arguments, protocol=2)[2:-1] + b"R."


def gadgets(canary):
    """Pickles that create the file `canary` when they are loaded by an unpickler that allows their name."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    call = functools.partial(pickle.dumps, protocol=4)
    nested = call(Call(os.system, touch))
    reconstruct = np.ones(1).__reduce__()[0]
    scalar = np.float32(1).__reduce__()[0]
    yield "os.system", call(Call(os.system, touch))
    yield "os.system in scores", call({"A": np.ones(2), "B": Call(os.system, touch)})
    yield "posix.system, protocol 0", pickle.dumps(Call(os.system, touch), protocol=0)
    yield "posix.system, INST", b"(S'" + touch.encode() + b"'\niposix\nsystem\n."
    yield "posix.system, OBJ", b"\x80\x02(cposix\nsystem\nV" + touch.encode() + b"\no."
    yield "NEWOBJ", b"\x80\x02csubprocess\nPopen\n(lp0\nVtouch\naV" + str(canary).encode() + b"\na\x85\x81."
    yield "eval", call(Call(eval, code))
    yield "getattr", call(Call(getattr, Call(__import__, "os"), "system"))
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x0fcore.os.systemX\x93."
    yield "partial", call(Call(functools.partial(os.system, touch)))
    yield "methodcaller", call(operator.methodcaller("system", touch))
    yield "pickle.loads", call(Call(pickle.loads, nested))
    yield "Path.touch", global_call("pathlib", "Path.touch", str(canary))
    yield "memmap", global_call("numpy", "memmap", str(canary), "u1", "w+", 0, [1])
    yield "object scalar", call(Call(scalar, np.dtype("O"), nested))
    yield "object array", call(Call(reconstruct, np.ndarray, (1,), b"O"))
    yield "object array of a call", call(np.array([Call(os.system, touch)], dtype=object))
    yield "reconstruct of another type", call(Call(reconstruct, subprocess.Popen, (0,), b"b"))
    yield "dtype by name", call(Call(np.dtype, "os.system"))
    yield "codecs encode", global_call("_codecs", "encode", code, "rot13")
    yield "torch.storage", global_call("torch.storage", "_load_from_bytes", nested)
    yield "extension", b"\x80\x02\x82\x01."
    yield "persistent id", b"Pos.system\n."
    yield "build on a name", b"\x80\x02cnumpy\nndarray\nN}U\x0c__setstate__cnumpy\ndtype\ns\x86b."
    yield "state of a dict", b"\x80\x02}}U\x09__class__cnumpy\nndarray\nsb."


def test_gadgets_are_refused_and_nothing_runs(tmp_path):
    canary = tmp_path / "canary"
    refused = []
    for name, data in gadgets(canary):
        path = tmp_path / "scores.pickle"
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            load_scores(path)
        assert "\n" not in str(caught.value), name
        refused.append(str(caught.value))
        assert not canary.exists(), name
    assert len(refused) > 20 and any("'builtins.eval'" in line for line in refused)


def test_the_gadgets_would_run_otherwise(tmp_path):
    """The canary is a real one: plain unpickling of the same bytes creates it."""
    canary = tmp_path / "canary"
    for name, data in gadgets(canary):
        if name in ("os.system in scores", "posix.system, OBJ"):
            subprocess.run([sys.executable, "-c", "import sys, pickle; pickle.load(sys.stdin.buffer)"], input=data)
            assert canary.exists(), name
            canary.unlink()


def array_pickle(shape=(2,), spec="f4", state=(3, "<", None, None, None, -1, -1, 0), data=b"\0" * 8):
    """An array pickled by hand, so that its parts may contradict each other."""

    class Array:
        def __reduce__(self):
            return np.ones(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, shape, DType(), False, data)

    class DType:
        def __reduce__(self):
            return np.dtype, (spec, False, True), state

    return pickle.dumps({"A": Array()}, protocol=4)


def test_arrays_that_contradict_themselves(tmp_path):
    path = tmp_path / "scores.pickle"
    path.write_bytes(array_pickle())
    np.testing.assert_array_equal(load_scores(path)["A"], [0, 0])
    for changes in [
        *({"shape": shape} for shape in ((3,), (-2,), (2**62,), (2**70, 0), (2.0,), (1,) * 40, None)),
        *({"data": data} for data in (b"", 8, [1.0, 2.0], None, "\u1234" * 8)),
        *({"spec": spec} for spec in ("O8", "V8", "f16", "f4\n", "", 4, ["f4"], "f4,f4", "(2,)f4", "m8")),
        {"spec": "U1", "data": b"\xff" * 8},
        *({"state": state} for state in ((), (3, ["<"], None, None, None, -1, -1, 0), (3, "x", *[None] * 6))),
    ]:
        path.write_bytes(array_pickle(**changes))
        with pytest.raises(UserError):
            load_scores(path)
            pytest.fail(f"{changes} passed")


def test_a_state_of_a_dtype_that_crashes_numpy(tmp_path):
    """One None is lost; numpy 2.4 ends with a segmentation fault on it."""
    (tmp_path / "scores.pickle").write_bytes(array_pickle(state=(3, "<", None, -1, -1, 0)))
    np.testing.assert_array_equal(load_scores(tmp_path / "scores.pickle")["A"], [0, 0])


def test_an_object_array_over_chosen_bytes_is_not_made(tmp_path):
    """ndarray((1,), "O", bytes): numpy would take the bytes for the address of an object."""
    (tmp_path / "scores.pickle").write_bytes(global_call("numpy", "ndarray", (1,), "O", b"A" * 8))
    with pytest.raises(UserError):
        load_scores(tmp_path / "scores.pickle")


def test_truncated_and_meaningless_files_end_in_one_line(tmp_path):
    path = tmp_path / "scores.pickle"
    valid = pickle.dumps({"A": np.ones(3), "B": np.zeros(3)}, protocol=4)
    sizes = [code + struct.pack("<Q", 2**62) for code in (b"\x80\x04\x95", b"\x80\x04\x8e", b"\x80\x05\x96")]
    endless = b"\x80\x02]q\x00h\x00a."
    ends = [valid[:length] for length in range(0, len(valid), 7)]
    for data in (*ends, *sizes, endless, b".", b"(", b"0.", b"I" + b"9" * 10_000 + b"\n.", b"Epoch,Loss\n0,1\n"):
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            load_scores(path)
        assert str(path) in str(caught.value) and len(str(caught.value)) < 300 + len(str(path))
