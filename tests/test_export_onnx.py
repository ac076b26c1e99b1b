"""export_onnx.py: the network's scores, and predict.py with .onnx files as with their checkpoints."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cli import UserError
from network import read_model
from pose.keypoints import FILE_NAME, load_keypoints
from prediction import onnx_model
from prediction.models import load_for_testing
from tests.helpers import CLASSES, assert_error, call_main, run_script, write_people
from tests.pose_fixtures import save_network
from tests.test_network import random_statistics
from tests.test_predict import write_video
from training.resume import trained_frames, trained_poses
from training.streams import STREAMS, trained_stream
from utils import save_checkpoint

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZE = 48
OPTIONS = {"spatial": "--spatial", "motion_pose": "--motion", "flow": "--flow", "skeleton": "--skeleton"}
POSES = {"model": "onnx", "every": 2, "min_score": 0.3, "input_size": [64, 96]}
FRAMES = {"every": 2, "fps": None, "short_side": 30, "quality": 80}
CPU = torch.device("cpu")


def write_checkpoint(path: Path, name: str, **changes) -> None:
    """A random network with the statistics of a trained one, and all that training keeps of a run."""
    stream = STREAMS[name]
    torch.manual_seed(len(name))
    arch = stream.family.architectures[0]
    network = random_statistics(stream.family.build(arch, stream.in_channels, len(CLASSES)))
    options = {"normalize": name != "motion_pose", "flow_method": "farneback", "val_groups": [1, 2], "ema": 0.9}
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
        "options": options,
        "frames": FRAMES,
        "poses": POSES,
        "something new": {"temperature": 1.5},
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
    save_network(root / "pose.onnx", dynamic=False)
    return root


def read_file(files: Path, name: str):
    return load_for_testing(files / "new" / f"{name}.onnx", STREAMS[name], Path("none"), CPU)


@pytest.mark.parametrize("name", STREAMS)
def test_scores_are_the_networks_in_batches_of_any_size(files, name):
    stream, path = STREAMS[name], files / "new" / f"{name}.onnx"
    network = read_model(files / f"{name}.tar", stream.in_channels, stream.family).network.eval()
    session = onnxruntime.InferenceSession(path)
    for clips in (1, 5):
        shape = (2, 11, 48, 18) if name == "skeleton" else (stream.in_channels, SIZE, SIZE)
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
def test_the_file_tells_what_the_checkpoint_tells(files, name):
    expected = load_for_testing(files / f"{name}.tar", STREAMS[name], Path("none"), CPU)
    model = read_file(files, name)
    assert (model.arch, model.image_size, model.classes) == (expected.arch, expected.image_size, expected.classes)
    same = ("epoch", "in_channels", "options", "frames", "poses", "something new")
    assert all(model.checkpoint[key] == expected.checkpoint[key] for key in same)
    assert not {"state_dict", "training_state_dict", "optimizer", "averaged_steps", "best_prec1"} & set(
        model.checkpoint
    )
    assert trained_frames(model.checkpoint, "x") == trained_frames(expected.checkpoint, "x")
    assert trained_poses(model.checkpoint, "x") == POSES
    assert model.device == CPU
    assert model.network.session.get_session_options().intra_op_num_threads == torch.get_num_threads()


@pytest.mark.parametrize("name", ["spatial", "motion_pose", "flow"])
def test_metadata_describe_the_input(files, name):
    """Another program, which knows the file alone, makes the same input of images."""
    told = {prop.key: json.loads(prop.value) for prop in onnx.load(files / "new" / f"{name}.onnx").metadata_props}
    channels = told["in_channels"] // told["stack_length"]
    images = np.random.default_rng(0).integers(0, 256, (told["stack_length"], SIZE, SIZE, channels), dtype=np.uint8)
    values = images / 255
    if told["mean"]:
        values = (values - told["mean"]) / told["std"]
    index = torch.arange(told["stack_length"])[None]
    expected = trained_stream(STREAMS[name], told["options"]).to_input(torch.from_numpy(images), index)
    assert np.abs(expected.numpy() - values.transpose(0, 3, 1, 2).reshape(1, -1, SIZE, SIZE)).max() < 1e-5
    assert (told["mean"] is None) == (name == "motion_pose") and told["test_positions"] == 19


# ---- scripts ----


def results(file: Path) -> dict:
    (video,) = json.loads(file.read_text())["videos"]
    return video["streams"] | {"fused": video["fused"]}


def test_predict_gives_the_checkpoints_probabilities(files, tmp_path):
    pytest.importorskip("cv2")
    video = tmp_path / "clip.avi"
    write_video(video, 24, (48, 36))
    write_people(tmp_path / "poses" / "clip", 12, 1, 1)  # of every second frame, as the checkpoints tell
    assert load_keypoints(tmp_path / "poses" / "clip" / FILE_NAME).num_frames == 12
    common = (video, "--keypoints", tmp_path / "poses", "--device", "cpu", "--no-amp", "--json")
    checkpoints = [word for name, option in OPTIONS.items() for word in (option, files / f"{name}.tar")]
    finished = call_main("predict", *common, tmp_path / "expected.json", *checkpoints)
    assert finished.returncode == 0, finished.stderr
    finished = run_script("export_onnx.py", files / "spatial.tar", tmp_path / "spatial.onnx")
    assert finished.returncode == 0 and not finished.stderr, finished.stderr
    exported = ["--spatial", tmp_path / "spatial.onnx"]
    exported += [word for name in list(OPTIONS)[1:] for word in (OPTIONS[name], files / "new" / f"{name}.onnx")]
    finished = run_script("predict.py", *common, tmp_path / "found.json", *exported)
    assert finished.returncode == 0 and not finished.stderr, finished.stderr
    expected, found = results(tmp_path / "expected.json"), results(tmp_path / "found.json")
    assert found.keys() == expected.keys() == {*STREAMS, "fused"}
    for stream, scores in expected.items():
        for what in ("logits", "probabilities"):
            assert found[stream][what] == pytest.approx(scores[what], abs=1e-4)
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["frames"] == FRAMES and content["streams"]["flow"]["checkpoint"].endswith("flow.onnx")


def test_checkpoints_without_classes_take_them_from_the_index(files, tmp_path):
    content = torch.load(files / "flow.tar", weights_only=True)
    torch.save({"epoch": 3, "state_dict": content["state_dict"], "best_prec1": 78.2}, tmp_path / "old.tar")
    (tmp_path / "index.txt").write_text("1 eins\n2 zwei\n3 Übung\n")
    target = tmp_path / "x.onnx"
    assert_error(call_main("export_onnx", tmp_path / "old.tar", target), "old.tar", "3 classes", "--class-index")
    index = ("--ucf-list", tmp_path, "--class-index", "index.txt")
    assert call_main("export_onnx", tmp_path / "old.tar", target, *index).returncode == 0
    model = load_for_testing(target, STREAMS["flow"], Path("none"), CPU)
    assert model.classes == ["eins", "zwei", "Übung"] and model.image_size == 224


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("export_onnx missing.tar x.onnx", ["missing.tar", "no such file"]),
        ("export_onnx bad.txt x.onnx", ["bad.txt", "checkpoint"]),
        ("export_onnx new/spatial.onnx x.onnx", ["spatial.onnx", "checkpoint"]),
        ("export_onnx weights.tar x.onnx", ["weights.tar", "state_dict"]),
        ("export_onnx head.tar x.onnx", ["head.tar", "ts-lstm", "spatial, motion_pose"]),
        ("export_onnx spatial.tar x.pth", ["x.pth", ".onnx"]),
        ("export_onnx spatial.tar folder.onnx", ["folder.onnx", "folder"]),
        ("predict V --spatial missing.onnx", ["missing.onnx", "no such file"]),
        ("predict V --spatial text.onnx", ["text.onnx", "onnxruntime cannot load"]),
        ("predict V --spatial pose.onnx", ["pose.onnx", "metadata", "export_onnx.py"]),
        ("predict V --spatial foreign.onnx", ["foreign.onnx", "metadata", "export_onnx.py"]),
        ("predict V --spatial new/flow.onnx", ["flow.onnx", "flow stream", "not of the spatial stream"]),
        ("predict V --skeleton new/skeleton.onnx --keypoints . --parts p.png", ["--parts", "gradients", "checkpoint"]),
    ],
)
def test_mistakes(files, tmp_path, arguments, words):
    content = torch.load(files / "spatial.tar", weights_only=True)
    torch.save(content["state_dict"], tmp_path / "weights.tar")
    torch.save(content | {"arch": "ts-lstm"}, tmp_path / "head.tar")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "text.onnx").write_text("no network")
    foreign = onnx.load(files / "pose.onnx")
    onnx.helper.set_model_props(foreign, {"stride": "32", "names": "{0: 'person'}"})
    onnx.save(foreign, tmp_path / "foreign.onnx")
    (tmp_path / "V").touch()
    script, *others = arguments.split()
    made = {path.name: path for path in tmp_path.iterdir()} | {"x.onnx": tmp_path / "x.onnx", ".": tmp_path}
    given = (made.get(word, word if word.startswith("--") else files / word) for word in others)
    finished = call_main(script, *given)
    assert_error(finished, *words)
    assert not (tmp_path / "x.onnx").exists()


# ---- faults ----


def test_another_networks_file_is_not_kept(files, tmp_path, monkeypatch):
    target = tmp_path / "x.onnx"
    target.write_bytes(b"what was there")
    write_checkpoint(tmp_path / "b.tar", "flow")
    content = torch.load(tmp_path / "b.tar", weights_only=True)
    content["state_dict"]["layer4.1.bn2.running_mean"][:9] += 0.5
    save_checkpoint(tmp_path / "b.tar", content)
    convert, other = onnx_model.convert, load_for_testing(tmp_path / "b.tar", STREAMS["flow"], Path("none"), CPU)
    monkeypatch.setattr(onnx_model, "convert", lambda model, stream: convert(other, stream))
    assert_error(call_main("export_onnx", files / "flow.tar", target), "x.onnx", "differ by", "nothing was written")
    assert target.read_bytes() == b"what was there" and {path.name for path in tmp_path.iterdir()} == {
        "x.onnx",
        "b.tar",
    }


def test_scores_that_are_not_finite_are_no_agreement(files, tmp_path):
    content = torch.load(files / "flow.tar", weights_only=True)
    content["state_dict"]["fc.bias"][1] = float("nan")
    save_checkpoint(tmp_path / "nan.tar", content)
    assert_error(call_main("export_onnx", tmp_path / "nan.tar", tmp_path / "x.onnx"), "differ by nan")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages_are_named(files, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    finished = call_main("export_onnx", files / "skeleton.tar", tmp_path / "x.onnx")
    assert_error(finished, f"pip install {package}")
    assert not list(tmp_path.iterdir())
    if package == "onnxruntime":
        with pytest.raises(UserError, match="pip install onnxruntime"):
            read_file(files, "skeleton")
