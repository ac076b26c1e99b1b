import collections
import os
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
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
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "<i8", ">i2", "u1"])
def test_scores_of_every_protocol_and_number_type(tmp_path, protocol, dtype):
    scores = {name: (vector * 50 + 100).astype(dtype) for name, vector in make_scores().items()}
    assert_same(load_scores(write(tmp_path / "scores.pickle", scores, protocol)), scores)


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


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        np.arange(10)[::2],
        np.arange(8.0).reshape(2, 4).T[3],
        np.asfortranarray(np.arange(5.0)[None]),
        np.arange(4, dtype="f4")[None, ::-1],
    ],
)
def test_views_and_rows(tmp_path, protocol, value):
    path = write(tmp_path / "scores.pickle", {"a": value, "b": value}, protocol)
    assert_same(load_scores(path), {"a": value.ravel(), "b": value.ravel()})


@pytest.mark.parametrize("protocol", range(6))
def test_names_that_are_numpy_strings(tmp_path, protocol):
    names = np.array(["Umlaut ä", "跳"])
    path = write(tmp_path / "scores.pickle", {name: np.ones(2) for name in names}, protocol)
    assert [(type(name), name) for name in load_scores(path)] == [(str, "Umlaut ä"), (str, "跳")]


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
        by_hand = pickle.load(file)
    assert_same(by_hand, scores)
    save_scores(path, {"A": by_hand["A"] / 2})
    assert os.listdir(path.parent) == ["scores.pickle"] and list(load_scores(path)) == ["A"]


def test_save_refuses_what_cannot_be_loaded_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "scores.pickle"
    save_scores(path, make_scores())
    before = path.read_bytes()
    for bad in (np.float32([0, np.nan]), np.ones((2, 2)), np.array(["a"]), np.float64([1e300])):
        with pytest.raises(UserError, match="'bad'"):
            save_scores(path, {"good": np.ones(2), "bad": bad})
    assert path.read_bytes() == before


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
        (3, "holds no dict of scores"),
        (np.ones(3), "holds no dict of scores"),
        (None, "holds no dict of scores"),
        ({1: np.ones(2)}, "holds no dict of scores"),
        ({"A": [1.0, [2.0]]}, "'A' holds a list"),
        ({"A": [1.0, "b"]}, "'A' holds <U"),
        ({"A": [1.0, None]}, "'A' holds object"),
        ({"A": 1.0}, "'A'"),
        ({"A": np.float32(1)}, "'A'"),
        ({"A": np.ones((2, 3))}, "'A'"),
        ({"A": np.array(1.0)}, "'A'"),
        ({"A": np.ones(0)}, "'A'"),
        ({"A": np.array(["a"])}, "'A'"),
        ({"A": np.array([True])}, "'A'"),
        ({"A": np.float32([1, np.nan])}, "'A' are not finite"),
        ({"A": np.float64([1e39])}, "'A' are not finite"),
        ({"A": np.array([1, "a"], dtype=object)}, "'O8'"),
        ({"A": np.zeros(2, "c8")}, "'c8'"),
        ({"A": np.zeros(2, "f4,i4")}, "array of type"),
        ({"A": np.zeros(2, "M8[s]")}, "'M8'"),
        ({"A": {1, 2}}, "'A' holds a set"),
        ({"A": collections.OrderedDict()}, "collections.OrderedDict"),
        ({"A": 1j}, "builtins.complex"),
        ({"A": np.float32}, "numpy.float32"),
        ({"A": np.dtype("f4")}, "'A' holds a _DType"),
        ({"A": np.ndarray}, "'A' holds a NoneType"),
    ],
)
def test_refused_content(tmp_path, content, words):
    with pytest.raises(UserError) as caught:
        load_scores(write(tmp_path / "scores.pickle", content))
    assert str(tmp_path / "scores.pickle") in str(caught.value)
    assert words in str(caught.value)


def test_refused_files(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "zip").write_bytes(b"PK\x03\x04rest")
    os.mkfifo(tmp_path / "pipe")
    for name, words in [
        ("none", "no such file"),
        (".", "no such file"),
        ("pipe", "no such file"),
        ("empty", "not a readable pickle"),
        ("zip", "zip archive"),
    ]:
        with pytest.raises(UserError, match=words):
            load_scores(tmp_path / name)


def test_torch_tensors_are_refused_with_the_remedy(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match=r"torch\..*tensor.cpu\(\).numpy\(\)"):
        load_scores(write(tmp_path / "scores.pickle", {"A": torch.ones(3)}))
    torch.save({"A": torch.ones(3)}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match="zip archive"):
        load_scores(tmp_path / "model.pth.tar")


# ---- fuzzing ----

LENIENT = settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


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


def load_or_refuse(path, data):
    path.write_bytes(data)
    try:
        scores = load_scores(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert scores and all(vector.dtype == np.float32 and vector.ndim == 1 for vector in scores.values())


@LENIENT
@given(data=st.binary(max_size=200))
def test_fuzz_bytes(tmp_path, little_memory, data):
    load_or_refuse(tmp_path / "scores.pickle", data)


@LENIENT
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
    load_or_refuse(tmp_path / "scores.pickle", bytes(data))


@LENIENT
@given(
    content=st.dictionaries(
        st.text(max_size=5) | st.integers() | st.binary(max_size=3),
        st.lists(st.floats(width=32), max_size=4).map(lambda row: np.array(row, "f4"))
        | st.none()
        | st.text(max_size=3)
        | st.recursive(st.integers() | st.floats(), lambda inner: st.lists(inner, max_size=3), max_leaves=5),
        max_size=4,
    ),
    protocol=st.integers(0, 5),
)
def test_fuzz_content(tmp_path, content, protocol):
    load_or_refuse(tmp_path / "scores.pickle", pickle.dumps(content, protocol=protocol))
