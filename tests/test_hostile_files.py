"""Files that would run code, images that claim too much, and broken images, through the real scripts."""

import functools
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import fail
from common.images import BrokenImage, decode_image
from dataloader.images import read_image
from network import build_network
from tests.helpers import ROOT, STREAMS, assert_error, run_script, train_script
from tests.test_safe_pickle_attacks import Call, gadgets, global_call
from training import run as stream_module

# ---- files that would run code ----


def torch_gadgets(canary):
    """Pickles that would create `canary` through functions that torch brings along."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    nested = pickle.dumps(Call(os.system, touch), protocol=2)
    yield "torch.storage._load_from_bytes", global_call("torch.storage", "_load_from_bytes", nested)
    yield "torch.serialization.load", global_call("torch.serialization", "load", str(canary))
    yield "torch.hub.load", global_call("torch.hub", "load", str(canary.parent), "x", "local")
    yield "collect_env.run", global_call("torch.utils.collect_env", "run", touch)
    yield "execWrapper", global_call("torch.jit.unsupported_tensor_ops", "execWrapper", code, {}, {})
    yield "GuardBuilder", global_call("torch._dynamo.guards", "GuardBuilder.get", code)
    yield "ShapeEnv", global_call("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression", code)
    yield "load_config", global_call("torch.utils._config_module", "ConfigModule.load_config", None, nested)
    yield "basichandlers", global_call("torch.utils.data.datapipes.utils.decoder", "basichandlers", "pkl", nested)
    yield "bottleneck", global_call("torch.utils.bottleneck.__main__", "run_cprofile", code, {})
    yield "compile_file", global_call("torch._inductor.codecache", "compile_file", touch, str(canary), touch)
    yield "fx reduce", global_call("torch.fx.graph_module", "_forward_from_src", code, {})
    yield "rebuild by type", global_call("torch._tensor", "_rebuild_from_type_v2", os.system, str, (touch,), {})
    yield "wrapper subclass", global_call("torch._utils", "_rebuild_wrapper_subclass", os.system, touch)
    yield "load_inline", global_call("torch.utils.cpp_extension", "load_inline", "x", code)
    yield "numpy", global_call("numpy.testing._private.utils", "runstring", code, {})
    yield "numpy load", global_call("numpy", "load", str(canary), None, True)


def containers(data: bytes):
    """Files that hold the pickle `data`: by itself, as torch's zip archive, torch's old form, and the tar before."""
    yield "pickle", data
    out, source = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(2)}, source)
    with zipfile.ZipFile(out, "w") as archive, zipfile.ZipFile(source) as sound:
        for name in sound.namelist():
            archive.writestr(name, data if name.endswith("data.pkl") else sound.read(name))
    yield "zip", out.getvalue()
    plain = functools.partial(pickle.dumps, protocol=2)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = plain(0x1950A86A20F9469CFC6C) + plain(1001) + plain(system)
    yield "old", head + data + plain([])
    for part in ("storages", "tensors", "pickle"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name in ("sys_info", "storages", "tensors", "pickle"):
                sound = {"sys_info": system, "pickle": {}}.get(name, 0)
                content = data if name == part else plain(sound)
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        yield f"tar, {part}", out.getvalue()


def hostile_files(canary):
    """(name, bytes) of every gadget in every container."""
    for gadget, data in [*gadgets(canary), *torch_gadgets(canary)]:
        for container, content in containers(data):
            yield f"{gadget} ({container})", content


@pytest.fixture
def hostile(tmp_path):
    """Canary and paths of the files by name."""
    folder = tmp_path / "files"
    folder.mkdir()
    paths = {}
    for number, (name, content) in enumerate(hostile_files(tmp_path / "canary")):
        paths[name] = folder / f"{number}.pth.tar"
        paths[name].write_bytes(content)
    assert len(paths) > 300
    return tmp_path / "canary", paths


@pytest.mark.parametrize("stream", STREAMS)
def test_nothing_runs_when_the_training_scripts_load_a_file(hostile, stream, tiny, tmp_path, monkeypatch):
    canary, paths = hostile
    # The network is the same each time; building it takes longest.
    monkeypatch.setattr(stream_module, "build_network", functools.lru_cache(build_network))
    for name, path in paths.items():
        for option in ("--resume", "--weights"):
            arguments = (option, path, "--evaluate") if option == "--resume" else (option, path)
            assert_error(train_script(stream, tiny, tmp_path / "record", *arguments, inline=True), str(path))
            assert not canary.exists(), f"{name} ran through {option}"
    assert not (tmp_path / "record").exists()


def test_as_a_process(hostile, tiny, tmp_path):
    """Nothing that runs in a process of its own, and seconds later, goes unseen."""
    canary, paths = hostile
    for option, name in (("--resume", "os.system (zip)"), ("--weights", "Popen (old)")):
        assert_error(train_script("spatial", tiny, tmp_path / "record", option, paths[name]), "objects other than")
        assert not canary.exists()


def test_the_files_would_run_otherwise(hostile):
    """The canary is a real one: torch.load without `weights_only` creates it."""
    canary, paths = hostile
    harmful = [
        f"{gadget} ({container})"
        for gadget in ("os.system", "eval", "exec", "partial", "runstring", "memmap")
        for container in ("pickle", "zip", "old")
    ] + [
        "collect_env.run (zip)",
        "execWrapper (old)",
        "torch.storage._load_from_bytes (zip)",
        "basichandlers (zip)",
        "os.system in scores (zip)",
        "os.system (tar, pickle)",
    ]
    script = """if True:
        import os, sys, torch
        canary, *paths = sys.argv[1:]
        for path in paths:
            try:
                torch.load(path, weights_only=False)
            except Exception:
                pass
            print(int(os.path.exists(canary)))
            if os.path.exists(canary):
                os.unlink(canary)
    """
    command = [sys.executable, "-W", "ignore", "-c", script, canary, *(paths[name] for name in harmful)]
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    ran = [name for name, line in zip(harmful, finished.stdout.split(), strict=True) if line == "1"]
    assert len(ran) >= len(harmful) - 6, set(harmful) - set(ran)
    for must in ("os.system (zip)", "eval (old)", "runstring (pickle)"):
        assert must in ran


def test_safetensors_by_name_only(hostile, tiny, tmp_path):
    canary, paths = hostile
    path = tmp_path / "weights.safetensors"
    for name in ("os.system (pickle)", "eval (zip)", "exec (old)"):
        path.write_bytes(paths[name].read_bytes())
        assert_error(train_script("spatial", tiny, tmp_path, "--weights", path, inline=True), "safetensors", str(path))
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert_error(train_script("spatial", tiny, tmp_path, "--weights", path, inline=True), "safetensors", str(path))
    assert not canary.exists()


def test_a_message_does_not_steer_the_terminal(capsys):
    assert fail("a\x1b[2J\nb \udc80 é") == 2
    assert capsys.readouterr().err == "error: a\\x1b[2J b \\udc80 é\n"


# ---- images ----


def jpeg(mode="RGB", size=(64, 48), **options) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def claim(data: bytes, width: int, height: int, before: bytes = b"") -> bytes:
    """A JPEG whose header tells another size, `before` put in front of that header."""
    at = min(place for place in (data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) if place > 0)
    return data[:at] + before + data[at : at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}])
@pytest.mark.parametrize("before", [b"", b"\xff\xff\xff", b"junk\xff\x00", b"\xff\x01", b"\xff\xfe\x00\x04\xff\xc0"])
def test_an_image_that_claims_gigabytes_is_refused(options, before, tmp_path):
    data, path = jpeg(**options), tmp_path / "x.jpg"
    path.write_bytes(claim(data, 64, 48, before))
    assert read_image(path).shape == (48, 64, 3)
    for width, height in ((65535, 65535), (65500, 16), (1, 60000), (40000, 3000)):
        path.write_bytes(claim(data, width, height, before))
        with pytest.raises(BrokenImage, match=f"x.jpg: an image of {width} x {height}"):
            read_image(path)


def test_a_png_that_claims_gigabytes_is_refused():
    file = io.BytesIO()
    Image.new("L", (9000, 9000)).save(file, "PNG")
    with pytest.raises(BrokenImage, match="9000 x 9000"):
        decode_image(file.getvalue())


@pytest.mark.parametrize("stream", STREAMS)
def test_grey_cmyk_and_differing_sizes_train(stream, own_tiny, tmp_path):
    """Images of any colour and size are taken as they are; scores are those of the images converted before."""
    folder = own_tiny / STREAMS[stream][1]
    for video in folder.iterdir():
        for number, (mode, size) in enumerate((("L", (50, 70)), ("CMYK", (48, 36)), ("RGB", (33, 200))), 1):
            (video / f"frame{number:06d}.jpg").write_bytes(jpeg(mode, size))
    finished = train_script(stream, own_tiny, tmp_path / "record", "--epochs", 1, inline=True)
    assert finished.returncode == 0 and finished.stderr == "", finished.stderr
    for path in folder.glob("*/frame00000[123].jpg"):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.convert("RGB").save(path, "PNG")  # under the same name: decoded by Pillow, without loss
    arguments = ("--evaluate", "--resume", tmp_path / "record" / "checkpoint.pth.tar")
    finished = train_script(stream, own_tiny, tmp_path / "again", *arguments, inline=True)
    assert finished.returncode == 0 and finished.stderr == "", finished.stderr
    name = f"{stream}_video_preds.pickle"
    first, second = (pickle.loads((tmp_path / run / name).read_bytes()) for run in ("record", "again"))
    assert first.keys() == second.keys()
    for video, scores in first.items():
        assert np.abs(scores - second[video]).max() < 0.05 * np.abs(scores).max()


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "truncated"),
        (lambda path: path.write_bytes(claim(path.read_bytes(), 65535, 65535)), "65535 x 65535"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    ],
)
def test_a_broken_image_stops_the_run(stream, damage, words, own_tiny, tmp_path):
    folder = own_tiny / STREAMS[stream][1]
    (video,) = folder.glob("*Diving_g01_c01")
    damage(video / "frame000001.jpg")
    run = functools.partial(train_script, stream, own_tiny, tmp_path, "--epochs", 1, inline=True)
    named = (str(video / "frame000001.jpg"), words, "Diving_g01_c01", "--skip-broken")
    assert_error(run(), *named)
    finished = run("--skip-broken")
    assert finished.returncode == 0 and finished.stderr.count("left out Diving_g01_c01") == 1
    resume = ("--resume", tmp_path / "checkpoint.pth.tar", "--evaluate")
    assert_error(run(*resume), *named)
    assert_error(run(*resume, "--workers", 2), *named)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_gap_in_the_numbers_stops_the_run_before_it_starts(stream, own_tiny, tmp_path):
    (video,) = (own_tiny / STREAMS[stream][1]).glob("*TaiChi_g04_c01")
    (video / "frame000009.jpg").unlink()
    finished = train_script(stream, own_tiny, tmp_path / "record", inline=True)
    assert_error(finished, str(video), "frame000009.jpg is missing", "TaiChi_g04_c01")
    assert not (tmp_path / "record").exists()
    for image in video.iterdir():
        image.unlink()
    assert_error(train_script(stream, own_tiny, tmp_path / "record", inline=True), "TaiChi_g04_c01", "no frames")
    finished = train_script(stream, own_tiny, tmp_path / "record", "--skip-broken", "--epochs", 1, inline=True)
    assert finished.returncode == 0 and "left out TaiChi_g04_c01" in finished.stderr


def test_a_link_that_leads_nowhere(own_tiny, tmp_path):
    video = own_tiny / "frames" / "v_Diving_g02_c01"
    shutil.rmtree(video)
    video.symlink_to(tmp_path / "nowhere")
    finished = run_script(
        "spatial_cnn_15.py",
        "--data",
        own_tiny / "frames",
        "--ucf-list",
        own_tiny / "lists",
        "--weights",
        "none",
        "--record",
        tmp_path,
        "--device",
        "cpu",
        cwd=ROOT,
    )
    assert_error(finished, "Diving_g02_c01", "No such file")
