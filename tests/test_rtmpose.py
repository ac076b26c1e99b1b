"""RTMPose by rtmlib, with small networks of the same inputs and outputs in the place of its own."""

import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from common.cli import UserError
from pose.coco import COCO_PARTS
from pose.estimators import make_estimator
from pose.keypoints import load_keypoints, people_of_frame
from tests.helpers import assert_error, call_main
from tests.pose_fixtures import save_frames, save_network

rtmlib = pytest.importorskip("rtmlib")
onnx = pytest.importorskip("onnx")

SIZE = (48, 64)  # of frames, (height, width): a tenth of what the detector sees
BOXES = np.array([(0, 0, 320, 480), (320, 80, 640, 480)], np.float32)  # left, wider than a person; right, squarer
X, Y = 30 + 20 * np.arange(17), 500 - 25 * np.arange(17)  # bins of half a pixel in the network's 192x256


def save_graph(path: Path, nodes, constants, shape, outputs) -> None:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        "pose",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def pixel(place: int) -> list:
    """Nodes that make `colour` (3,), of the pixel at (place, place)."""
    take = [("Gather", ["image", "place"], ["row"], {"axis": 2}), ("Gather", ["row", "place"], ["one"], {"axis": 3})]
    return [*take, ("Reshape", ["one", "three"], ["colour"], {})]


def save_detector(path: Path) -> None:
    """`BOXES`; the score of the first is the red of a pixel in B, G, R, that of the second the green."""
    nodes = pixel(20) + [
        ("Gather", ["colour", "red_green"], ["bytes"], {}),
        ("Div", ["bytes", "most"], ["scores"], {}),
        ("Reshape", ["scores", "column"], ["scores_column"], {}),
        ("Concat", ["boxes", "scores_column"], ["dets"], {"axis": 2}),
    ]
    constants = {"place": np.array([20]), "three": np.array([3]), "red_green": np.array([2, 1])}
    constants |= {"most": np.float32([255]), "column": np.array([1, 2, 1]), "boxes": BOXES[None]}
    save_graph(path, nodes, constants, (640, 640), ["dets"])


def save_pose(path: Path) -> None:
    """Peaks at `X` and `Y`, as high as the red of the middle pixel in R, G, B; the first keypoint's half as high."""
    lines = np.zeros((1, 17, 384), np.float32), np.zeros((1, 17, 512), np.float32)
    for line, bins in zip(lines, (X, Y), strict=True):
        line[0, np.arange(17), bins] = 1
        line[0, 0] /= 2
    nodes = pixel(96) + [
        ("Gather", ["colour", "red"], ["normalised"], {}),
        ("Mul", ["normalised", "std"], ["scaled"], {}),
        ("Add", ["scaled", "mean"], ["score"], {}),
        ("Mul", ["x_lines", "score"], ["simcc_x"], {}),
        ("Mul", ["y_lines", "score"], ["simcc_y"], {}),
    ]
    constants = {"place": np.array([96]), "three": np.array([3]), "red": np.array([0]), "x_lines": lines[0]}
    constants |= {"std": np.float32(58.395 / 255), "mean": np.float32(123.675 / 255), "y_lines": lines[1]}
    save_graph(path, nodes, constants, (256, 192), ["simcc_x", "simcc_y"])


def save_rtmo(path: Path) -> None:
    """The detector's people, each with keypoints (10, 20), (20, 40), … in its pixels and scores of 0.9."""
    save_detector(path)
    model = onnx.load(path)
    keypoints = np.full((1, 2, 17, 3), 0.9, np.float32)
    keypoints[..., 0], keypoints[..., 1] = 10 * np.arange(1, 18), 20 * np.arange(1, 18)
    model.graph.node.append(onnx.helper.make_node("Identity", ["people"], ["keypoints"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(keypoints, "people"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("keypoints", onnx.TensorProto.FLOAT, None))
    path.write_bytes(model.SerializeToString())


def cached(url: str, home: Path) -> Path:
    return home / "hub/checkpoints" / (PurePosixPath(url).stem + ".onnx")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache with all that `balanced` and `rtmo` need."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    known = rtmlib.Body.MODE["balanced"]
    save_detector(cached(known["det"], tmp_path))
    save_pose(cached(known["pose"], tmp_path))
    save_rtmo(cached(rtmlib.Body.RTMO_MODE["balanced"]["pose"], tmp_path))
    return tmp_path


def frame(red, green, blue=0):
    return np.full((*SIZE, 3), (red, green, blue), np.uint8)


def expected(box) -> np.ndarray:
    """x and y (17, 2) in [0, 1] of the frame: the peaks' places in the box, enlarged to 5/4 and to 3:4."""
    left, top, right, bottom = box / 10
    width, height = (right - left) * 1.25, (bottom - top) * 1.25
    width, height = max(width, height * 3 / 4), max(height, width * 4 / 3)
    x = (left + right) / 2 + (X / 384 - 0.5) * width
    y = (top + bottom) / 2 + (Y / 512 - 0.5) * height
    return np.stack([x / SIZE[1], y / SIZE[0]], axis=1).clip(0, 1)


def test_people_are_those_of_the_detector_with_the_parts_of_the_pose_network(home):
    estimator = make_estimator("rtmpose", None, "cpu")
    frames = [(250, 0), (250, 250), (250, 120), (120, 250), (0, 250), (0, 0, 250)]
    people = estimator([frame(*colour) for colour in frames])
    # A box needs a score of 0.5, and a part one of 0.3: the nose has half of the red, others all of it.
    assert [len(found) for found in people] == [1, 2, 1, 1, 0, 0]
    assert all(found.dtype == np.float32 and found.shape[1:] == (18, 3) for found in people)
    for person, box in zip(people[1], BOXES, strict=True):
        np.testing.assert_allclose(person[COCO_PARTS, :2], expected(box), atol=1e-4)
        np.testing.assert_allclose(person[1:, 2], 250 / 255, atol=0.01)
        np.testing.assert_allclose(person[0, 2], 125 / 255, atol=0.01)
        np.testing.assert_allclose(person[1, :2], (person[2, :2] + person[5, :2]) / 2, atol=1e-6)
    np.testing.assert_array_equal(people[0][0], people[1][0])
    assert people[3][0, 0].tolist() == [0, 0, 0] and (people[3][0, 1:, 2] > 0.4).all()


def test_rtmo(home):
    estimator = make_estimator("rtmpose", None, "cpu", rtmpose_mode="rtmo")
    people = estimator([frame(250, 0), frame(250, 250), frame(120, 120)])
    assert [len(found) for found in people] == [1, 2, 0]
    place = np.arange(1, 18)[:, None] * (10, 20) / (640, 480)
    np.testing.assert_allclose(people[0][0, COCO_PARTS, :2], place, atol=1e-6)
    np.testing.assert_allclose(people[0][0, :, 2], 0.9, atol=1e-6)


def test_settings_tell_modes_and_weights_apart(home):
    first = make_estimator("rtmpose", None, "cpu").settings
    assert first["model"] == "rtmpose" and first["rtmpose_mode"] == "balanced"
    save_rtmo(cached(rtmlib.Body.MODE["balanced"]["pose"], home))
    assert make_estimator("rtmpose", None, "cpu").settings["weights"] != first["weights"]


def test_the_scripts_need_no_option_about_weights(home):
    save_frames(home / "frames/v_a", [(250, 0, 0), (250, 250, 0), (0, 0, 250)], SIZE)
    run = ("--model", "rtmpose", "--frames", home / "frames", "--out", home / "out", "--workers", 0)
    finished = call_main("process_pose", *run)
    assert finished.returncode == 0, finished.stderr
    keypoints = load_keypoints(home / "out/a/keypoints.npz")
    assert [len(people_of_frame(keypoints, number)) for number in (1, 2, 3)] == [1, 2, 0]
    assert "load " not in finished.stdout


def test_mistakes(home, tmp_path):
    arguments = ("process_pose", "--model", "rtmpose", "--frames", tmp_path / "frames", "--out", tmp_path / "out")
    save_frames(tmp_path / "frames/v_a", [(250, 0, 0)], SIZE)
    weights = tmp_path / "pose_model.pth"
    weights.write_bytes(b"-")
    assert_error(call_main(*arguments, "--pose-weights", weights), "pose_model.pth", "--model onnx")
    assert_error(call_main(*arguments, "--device", "cuda"), "--device cuda")


# ---- weights that come by themselves ----


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of archives as rtmlib downloads, and an empty cache; yields the folder of its files."""
    files, cache = tmp_path / "files", tmp_path / "cache"
    save_detector(files / "end2end.onnx")
    for part, save in (("det", save_detector), ("pose", save_pose)):
        save(tmp_path / "end2end.onnx")
        with zipfile.ZipFile(files / f"{part}-12ab34cd.zip", "w") as archive:
            archive.write(tmp_path / "end2end.onnx", "20230831/network/end2end.onnx")
    handler = partial(SimpleHTTPRequestHandler, directory=str(files))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *arguments: None)
    monkeypatch.setenv("TORCH_HOME", str(cache))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        known = dict(rtmlib.Body.MODE["balanced"])
        for part in ("det", "pose"):
            known[part] = f"http://127.0.0.1:{server.server_port}/{part}-12ab34cd.zip"
        monkeypatch.setitem(rtmlib.Body.MODE, "balanced", known)
        threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True).start()
        yield files
        server.shutdown()


def test_weights_are_downloaded_once(server, tmp_path, capsys):
    people = make_estimator("rtmpose", None, "cpu")([frame(250, 250)])
    assert capsys.readouterr().err.count("downloaded http://127.0.0.1") == 2
    names = sorted(path.name for path in (tmp_path / "cache/hub/checkpoints").iterdir())
    assert names == ["det-12ab34cd.onnx", "pose-12ab34cd.onnx"]
    for path in server.iterdir():
        path.unlink()
    again = make_estimator("rtmpose", None, "cpu")([frame(250, 250)])
    assert np.array_equal(people[0], again[0]) and not capsys.readouterr().err


@pytest.mark.parametrize("fault", ["gone", "cut", "full"])
def test_a_failed_download_is_one_line_and_leaves_nothing(server, tmp_path, monkeypatch, fault):
    archive = server / "det-12ab34cd.zip"
    if fault == "gone":
        archive.unlink()
    elif fault == "cut":
        archive.write_bytes(archive.read_bytes()[:300])
    else:

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    reason = {"gone": "404", "cut": "not a zip file", "full": "No space left on device"}[fault]
    save_frames(tmp_path / "frames/v_a", [(250, 0, 0)], SIZE)
    run = ("--model", "rtmpose", "--frames", tmp_path / "frames", "--out", tmp_path / "out")
    finished = call_main("process_pose", *run)
    assert_error(finished, "/det-12ab34cd.zip: cannot be downloaded", reason, "end2end.onnx", "--model onnx")
    assert not list((tmp_path / "cache/hub/checkpoints").iterdir())


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("model", ["rtmpose", "onnx"])
def test_the_cpu_in_place_of_a_gpu_is_said(home, tmp_path, monkeypatch, capsys, model):
    """Here onnxruntime itself falls back, as it does where its CUDA libraries are missing."""
    weights = save_network(tmp_path / "net.onnx") if model == "onnx" else None
    make_estimator(model, weights)
    assert not capsys.readouterr().err
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    make_estimator(model, weights)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "not on the GPU: pip uninstall onnxruntime, then pip install onnxruntime-gpu" in said[0]
    with pytest.raises(UserError, match="--device cuda: this onnxruntime has no CUDA.*pip uninstall onnxruntime"):
        make_estimator(model, weights, "cuda")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    people = make_estimator(model, weights)([frame(250, 250)])
    assert len(people) == 1 and "cannot use CUDAExecutionProvider" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot use CUDAExecutionProvider.*--device cpu"):
        make_estimator(model, weights, "cuda")
