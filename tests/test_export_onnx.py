"""export_onnx.py: the network's scores, all that a program needs that has the file alone, and nothing that is wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from network import read_model
from tests.helpers import CLASSES, assert_error, call_main
from tests.test_network import random_statistics
from training.streams import STREAMS, trained_stream
from utils import save_checkpoint

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZE = 48
POSES = {"model": "onnx", "every": 2, "min_score": 0.3, "input_size": [64, 96]}
FRAMES = {"every": 2, "fps": None, "short_side": 30, "quality": 80}


def write_checkpoint(path: Path, name: str, **changes) -> None:
    """A random network with the statistics of a trained one, and all that training keeps of a run."""
    stream = STREAMS[name]
    torch.manual_seed(len(name))
    arch = "test_resnet" if name in ("motion_pose", "flow") else stream.family.architectures[0]
    network = random_statistics(stream.family.build(arch, stream.in_channels, len(CLASSES)))
    content = {
        "epoch": 7,
        "arch": arch,
        "classes": list(CLASSES),
        "in_channels": stream.in_channels,
        "image_size": None if name == "skeleton" else SIZE,
        "state_dict": network.state_dict(),
        "training_state_dict": {"fc.bias": torch.zeros(3)},
        "averaged_steps": 5,
        "optimizer": {"state": {0: torch.zeros(2)}},
        "best_prec1": torch.tensor(71.5),  # the original code's may be a tensor
        "options": {"normalize": name != "motion_pose", "val_groups": [1, 2], "ema": 0.9},
        "frames": FRAMES,
        "poses": POSES,
        "calibration": {"temperature": 1.5},
    }
    save_checkpoint(path, content | changes)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """`STREAM.tar` and what export_onnx.py makes of it, `STREAM.onnx`, in a folder that was not there."""
    root = tmp_path_factory.mktemp("onnx")
    for name in STREAMS:
        write_checkpoint(root / f"{name}.tar", name)
        finished = call_main("export_onnx", root / f"{name}.tar", root / "new" / f"{name}.onnx")
        assert finished.returncode == 0 and not finished.stderr, finished.stderr
        (line,) = finished.stdout.splitlines()
        assert f"{name} stream" in line and f"{len(CLASSES)} classes" in line and " MB" in line
        assert float(line.split("at most ")[1].split()[0]) < 1e-4
    (root / "bad.txt").write_text("no network")
    return root


def metadata(path: Path) -> dict:
    return {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}


@pytest.mark.parametrize("name", STREAMS)
def test_scores_are_the_networks_in_batches_of_any_size(files, name):
    stream, path = STREAMS[name], files / "new" / f"{name}.onnx"
    network = read_model(files / f"{name}.tar", stream.in_channels, stream.family).network.eval()
    session = onnxruntime.InferenceSession(path)
    for clips in (1, 5):
        shape = (2, 11, 32, 18) if name == "skeleton" else (stream.in_channels, SIZE, SIZE)
        inputs = torch.randn(clips, *shape)
        inputs[clips // 2, 1:] = 0  # of a clip only one person is there
        with torch.inference_mode():
            expected = network(inputs).numpy()
        (logits,) = session.run(["logits"], {"input": inputs.numpy()})
        assert logits.shape == (clips, len(CLASSES)) and np.ptp(logits) > 0.1
        assert np.abs(logits - expected).max() < 1e-4
    content = onnx.load(path)
    onnx.checker.check_model(content)
    if name != "skeleton":  # whose batch norms do not all follow a convolution
        assert "BatchNormalization" not in {node.op_type for node in content.graph.node}


@pytest.mark.parametrize("name", STREAMS)
def test_metadata_tell_what_the_checkpoint_tells_and_describe_the_input(files, name):
    """Another program, which knows the file alone, makes the same input of images."""
    told = metadata(files / "new" / f"{name}.onnx")
    checkpoint = torch.load(files / f"{name}.tar", weights_only=True)
    same = ("epoch", "arch", "classes", "in_channels", "image_size", "options", "frames", "poses", "calibration")
    assert {key: told[key] for key in same} == {key: checkpoint[key] for key in same}
    assert not {"state_dict", "training_state_dict", "optimizer", "averaged_steps", "best_prec1"} & set(told)
    if name == "skeleton":
        return
    channels = told["in_channels"] // told["stack_length"]
    images = np.random.default_rng(0).integers(0, 256, (told["stack_length"], SIZE, SIZE, channels), dtype=np.uint8)
    values = images / 255
    if told["mean"]:
        values = (values - told["mean"]) / told["std"]
    index = torch.arange(told["stack_length"])[None]
    expected = trained_stream(STREAMS[name], told["options"]).to_input(torch.from_numpy(images), index)
    assert np.abs(expected.numpy() - values.transpose(0, 3, 1, 2).reshape(1, -1, SIZE, SIZE)).max() < 1e-5
    assert (told["mean"] is None) == (name == "motion_pose") and told["test_positions"] == 19


def test_checkpoints_without_classes_take_them_from_the_index(files, tmp_path):
    content = torch.load(files / "spatial.tar", weights_only=True)
    torch.save({"epoch": 3, "state_dict": content["state_dict"], "best_prec1": 78.2}, tmp_path / "old.tar")
    (tmp_path / "index.txt").write_text("1 eins\n2 zwei\n3 Übung\n")
    target = tmp_path / "x.onnx"
    assert_error(call_main("export_onnx", tmp_path / "old.tar", target), "old.tar", "3 classes", "--class-index")
    index = ("--ucf-list", tmp_path, "--class-index", "index.txt")
    assert call_main("export_onnx", tmp_path / "old.tar", target, *index).returncode == 0
    assert metadata(target)["classes"] == ["eins", "zwei", "Übung"] and metadata(target)["image_size"] == 224


@pytest.mark.parametrize(
    ("checkpoint", "name", "words"),
    [
        ("bad.txt", "x.onnx", ["bad.txt", "checkpoint"]),
        ("head.tar", "x.onnx", ["ts-lstm"]),
        ("spatial.tar", "x.pth", ["x.pth", ".onnx"]),
        ("nan.tar", "x.onnx", ["x.onnx", "differ by nan", "nothing was written"]),
    ],
)
def test_mistakes(files, tmp_path, checkpoint, name, words):
    content = torch.load(files / "spatial.tar", weights_only=True)
    if checkpoint == "head.tar":
        torch.save(content | {"arch": "ts-lstm"}, tmp_path / checkpoint)
    if checkpoint == "nan.tar":
        content["state_dict"]["fc.bias"][1] = float("nan")
        torch.save(content, tmp_path / checkpoint)
    path = tmp_path / checkpoint if (tmp_path / checkpoint).exists() else files / checkpoint
    (tmp_path / name).write_text("what was there")
    assert_error(call_main("export_onnx", path, tmp_path / name), *words)
    assert (tmp_path / name).read_text() == "what was there"


def test_a_missing_package_is_named(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_error(call_main("export_onnx", files / "skeleton.tar", tmp_path / "x.onnx"), "pip install onnx")
    assert not list(tmp_path.iterdir())
