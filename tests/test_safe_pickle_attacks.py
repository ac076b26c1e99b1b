import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.cli import UserError
from fusion.scores import load_scores

ROOT = Path(__file__).resolve().parent.parent


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
    yield "exec", call(Call(exec, code))
    yield "getattr", call(Call(getattr, Call(__import__, "os"), "system"))
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x0fcore.os.systemX\x93."
    yield "Popen", call(Call(subprocess.Popen, ["touch", str(canary)]))
    yield "partial", call(Call(functools.partial(os.system, touch)))
    yield "attrgetter", call(Call(operator.attrgetter("system"), Call(__import__, "os")))
    yield "methodcaller", call(operator.methodcaller("system", touch))
    yield "pickle.loads", call(Call(pickle.loads, nested))
    yield "io.open", call(Call(io.open, str(canary), "w"))
    yield "Path.touch", global_call("pathlib", "Path.touch", str(canary))
    yield "runstring", global_call("numpy.testing._private.utils", "runstring", code, {})
    yield "runstring, old", global_call("numpy.testing.utils", "runstring", code, {})
    yield "f2py", global_call("numpy.f2py", "compile", "", "m", f"; {touch};")
    yield "f2py, crackfortran", global_call("numpy.f2py.crackfortran", "myeval", code)
    yield "np.load", call(Call(np.load, str(canary), None, True))
    yield "memmap", global_call("numpy", "memmap", str(canary), "u1", "w+", 0, [1])
    yield "numpy exec_command", global_call("numpy.distutils.exec_command", "exec_command", touch)
    yield "object scalar", call(Call(scalar, np.dtype("O"), nested))
    yield "object array", call(Call(reconstruct, np.ndarray, (1,), b"O"))
    yield "object array of a call", call(np.array([Call(os.system, touch)], dtype=object))
    yield "reconstruct of another type", call(Call(reconstruct, subprocess.Popen, (0,), b"b"))
    yield "dtype by name", call(Call(np.dtype, "os.system"))
    yield "dtype of object", call(Call(np.dtype, [("a", "O")]))
    yield "codecs", global_call("_codecs", "decode", code, "rot13")
    yield "codecs encode", global_call("_codecs", "encode", code, "rot13")
    yield "torch.storage", global_call("torch.storage", "_load_from_bytes", nested)
    yield "torch.hub", global_call("torch.hub", "load", str(canary.parent), "x", "local")
    yield "torch.load", global_call("torch", "load", str(canary))
    yield "torch._utils", global_call("torch._utils", "_rebuild_tensor_v2", None, 0, (1,), (1,), False, None)
    yield "torch inductor", global_call("torch._inductor.codecache", "compile_file", touch, str(canary), touch)
    yield "torch run_path", global_call("torch.utils.collect_env", "run", touch)
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
    assert len(refused) > 35
    assert any("'os.system'" in line or "'posix.system'" in line for line in refused)
    assert any("'builtins.eval'" in line for line in refused)


def test_the_gadgets_would_run_otherwise(tmp_path):
    """The canary is a real one: plain unpickling of the same bytes creates it."""
    canary = tmp_path / "canary"
    harmful = {
        "os.system",
        "os.system in scores",
        "eval",
        "exec",
        "Popen",
        "posix.system, INST",
        "io.open",
        "pickle.loads",
        "posix.system, protocol 0",
        "posix.system, OBJ",
        "partial",
        "memmap",
        "runstring",
    }
    for name, data in gadgets(canary):
        if name in harmful:
            script = "import sys, pickle, time; pickle.load(sys.stdin.buffer); time.sleep(0.2)"
            subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, timeout=60)
            assert canary.exists(), name
            canary.unlink()


def test_loading_imports_nothing(tmp_path):
    script = """if True:
        import sys
        from pathlib import Path
        from common.cli import UserError
        from fusion.scores import load_scores
        path, before = Path(sys.argv[1]), set(sys.modules)
        for module in ("this", "antigravity", "torch", "numpy.f2py", "wave"):
            path.write_bytes(b"c" + module.encode() + b"\\nname\\n.")
            try:
                load_scores(path)
            except UserError:
                continue
            raise SystemExit(1)
        assert set(sys.modules) == before
    """
    command = [sys.executable, "-c", script, str(tmp_path / "scores.pickle")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)


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
        {"shape": (3,)},
        {"shape": (-2,)},
        {"shape": (2**62,)},
        {"shape": (2**70, 0)},
        {"shape": (2.0,)},
        {"shape": (1,) * 40},
        {"shape": None},
        {"data": b""},
        {"data": 8},
        {"data": [1.0, 2.0]},
        {"data": None},
        {"data": "\u1234" * 8},
        {"spec": "O8"},
        {"spec": "V8"},
        {"spec": "f16"},
        {"spec": "f4\n"},
        {"spec": ""},
        {"spec": 4},
        {"spec": ["f4"]},
        {"spec": "U1", "data": b"\xff" * 8},
        {"spec": "f4,f4"},
        {"spec": "(2,)f4"},
        {"spec": "m8"},
        {"state": ()},
        {"state": (3, ["<"], None, None, None, -1, -1, 0)},
        {"state": (3, "x", None, None, None, -1, -1, 0)},
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
