import json
import sys

import numpy as np
import pytest
import torch

from common.cli import UserError
from common.records import FrameSettings
from common.video import frames_of
from pose.coco import COCO_PARTS, group_rtmpose, people_from_coco
from pose.estimators import default_model, make_estimator
from pose.keypoints import FILE_NAME, load_keypoints, people_of_frame
from pose.onnx_network import group_maps
from tests.pose_fixtures import MAP_SIZE, expected_person, person_maps, save_network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def frame(red, green, size=(48, 64)):
    return np.full((*size, 3), (red, green, 0), np.uint8)


def assert_people(people, columns):
    assert people.dtype == np.float32
    assert people.shape == (len(columns), 18, 3)
    order = np.argsort(people[:, 0, 0]) if len(people) else []
    for person, column in zip(people[order] if len(people) else people, columns, strict=True):
        assert (person[:, 2] > 0).all()
        assert np.abs((person[:, :2] - expected_person(column)) * MAP_SIZE[::-1]).max() < 0.51


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(("outputs", "dynamic"), [(1, True), (2, False)])
def test_onnx_reads_layout_and_size_from_the_model(tmp_path, layout, outputs, dynamic):
    path = save_network(tmp_path / "net.onnx", layout=layout, outputs=outputs, dynamic=dynamic)
    estimator = make_estimator("onnx", path, "cpu", input_size=(128, 192) if dynamic else None)
    assert estimator.settings["input_size"] == [128, 192]
    people = estimator([frame(255, 0), frame(0, 255), frame(255, 255), frame(0, 0), frame(128, 0)])
    for found, columns in zip(people, [[0], [12], [0, 12], [], [0]], strict=True):
        assert_people(found, columns)
    np.testing.assert_allclose(people[4][..., 2], people[0][..., 2] * 128 / 255, rtol=1e-5)


def test_onnx_networks_that_do_not_fit(tmp_path):
    good = save_network(tmp_path / "good.onnx")
    static = save_network(tmp_path / "static.onnx", dynamic=False)
    with pytest.raises(UserError, match="128x192.*--input-size"):
        make_estimator("onnx", static, "cpu", input_size=(64, 64))
    (tmp_path / "junk.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match="junk.onnx: onnxruntime cannot load it"):
        make_estimator("onnx", tmp_path / "junk.onnx", "cpu")
    with pytest.raises(UserError, match="--device cuda"):
        make_estimator("onnx", good, "cuda")
    with pytest.raises(UserError, match="missing.onnx: no such file"):
        make_estimator("onnx", tmp_path / "missing.onnx")
    with pytest.raises(UserError, match="--pose-weights FILE"):
        make_estimator("onnx")
    for model, words in (("rtmpose", "good.onnx: rtmpose has its own.*--model onnx"), ("openpose", "good.onnx")):
        with pytest.raises(UserError, match=words):
            make_estimator(model, good)


# ---- torch networks ----


def test_openpose_people_are_relative_to_the_image_not_to_the_padding():
    maps = person_maps(0)
    raw = maps[..., :19] / 2, maps[..., 19:]
    whole = group_maps(raw, (48, 64))
    padded = group_maps((*raw, np.array([0.8, 0.5])), (48, 64))
    np.testing.assert_allclose(padded[..., 0], np.minimum(whole[..., 0] / 0.5, 1), rtol=1e-6)
    np.testing.assert_allclose(padded[..., 1], np.minimum(whole[..., 1] / 0.8, 1), rtol=1e-6)
    with pytest.raises(UserError, match="finite"):
        group_maps((raw[0] * np.nan, raw[1]), (48, 64))


def test_openpose_estimator(tmp_path, monkeypatch):
    import pose.openpose

    class Fixed(torch.nn.Module):
        """Gives a person where the image is bright."""

        def forward(self, images):
            assert images.shape[2:] == (368, 496)
            maps = torch.zeros(len(images), 57, 46, 62)
            maps[:, :, :16, :24] = torch.from_numpy(person_maps(0)).permute(2, 0, 1)
            maps *= (images[..., :368, :490].mean(dim=(1, 2, 3)) > 0)[:, None, None, None]
            return maps[:, 19:], maps[:, :19]

    monkeypatch.setattr(pose.openpose, "load_openpose", lambda path: Fixed())
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"-")
    estimator = make_estimator("openpose", weights, "cpu")
    bright, dark = estimator([np.full((48, 64, 3), value, np.uint8) for value in (255, 0)])
    assert dark.shape == (0, 18, 3)
    places = (np.array([(x + 0.5, y + 0.5) for x, y in expected_person(0) * MAP_SIZE[::-1] - 0.5])) * 8
    np.testing.assert_allclose(bright[0, :, :2] * (round(368 * 64 / 48), 368), places, atol=4.1)


def coco(parts, score=0.9):
    """Keypoints of one person with a score above 0.3 for `parts`, part p at (p, 2p)."""
    keypoints, scores = np.zeros((1, 17, 2), np.float32), np.full((1, 17), 0.1, np.float32)
    for place, part in enumerate(COCO_PARTS):
        keypoints[0, place] = part, 2 * part
        if part in parts:
            scores[0, place] = score
    return keypoints, scores


def test_coco_keypoints_become_the_skeleton():
    # COCO: nose, left and right eye, ear, shoulder, elbow, wrist, hip, knee, ankle.
    assert COCO_PARTS == (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
    keypoints, scores = coco(range(18))
    scores[0, COCO_PARTS.index(2)] = 0.4
    [person] = group_rtmpose((keypoints, scores), (100, 50))
    for part in COCO_PARTS:
        np.testing.assert_allclose(person[part], [part / 50, 2 * part / 100, 0.4 if part == 2 else 0.9], rtol=1e-6)
    np.testing.assert_allclose(person[1], [3.5 / 50, 7 / 100, 0.4], rtol=1e-6)


@pytest.mark.parametrize("missing", [2, 5])
def test_no_neck_without_both_shoulders(missing):
    [person] = group_rtmpose(coco(set(range(18)) - {missing}), (100, 50))
    assert (person[[1, missing]] == 0).all()
    assert np.count_nonzero(person[:, 2]) == 16


def test_doubtful_parts_and_people_are_left_out():
    for parts, score, found in ((range(18), 0.29, 0), ({0, 14, 15}, 0.9, 0), ({0, 14, 15, 16}, 0.9, 1)):
        assert group_rtmpose(coco(parts, score), (100, 50)).shape == (found, 18, 3)
    assert group_rtmpose((np.zeros((0, 17, 2)), np.zeros((0, 17))), (100, 50)).shape == (0, 18, 3)


# ---- real images ----


def agreement(people, wanted):
    """Count of parts in both, in one alone, and of those in both that are more than 0.01 apart."""
    both = alone = apart = 0
    left = list(range(len(people)))
    for person_ in wanted:
        common = [(people[k][:, 2] > 0) & (person_[:, 2] > 0) for k in left]
        distance = [
            np.abs(people[k][here, :2] - person_[here, :2]).mean() if here.any() else 9
            for k, here in zip(left, common, strict=True)
        ]
        best = int(np.argmin(distance))
        match = people[left.pop(best)]
        here = common[best]
        both += here.sum()
        alone += ((match[:, 2] > 0) ^ (person_[:, 2] > 0)).sum()
        apart += (np.abs(match[here, :2] - person_[here, :2]).max(axis=1) > 0.01).sum()
    return both, alone, apart


def test_people_of_real_frames_are_the_expected_ones(shared):
    import av

    estimator = make_estimator("onnx", shared / "pose/openpose_mobilenet_v2_small.onnx", "cpu")
    numbers = (1, 120, 200, 330)
    with av.open(str(shared / "videos/exercise.avi")) as video:
        frames = {
            number: decoded.to_ndarray(format="rgb24")
            for number, decoded in enumerate(video.decode(video=0), 1)
            if number in numbers
        }
    # Together, for this network's normalisation must not see a frame's neighbours.
    for number, people in zip(numbers, estimator([frames[number] for number in numbers]), strict=True):
        expected = json.loads((shared / f"pose/expected/exercise_{number:03}.json").read_text())["people"]
        wanted = np.zeros((len(expected), 18, 3))
        for row, entry in zip(wanted, expected, strict=True):
            for part, values in entry["parts"].items():
                row[int(part)] = values
        assert len(people) == len(wanted)
        both, alone, apart = agreement(list(people), wanted)
        assert both >= 0.98 * (both + alone), number
        assert apart == 0, number


# ---- MoveNet and YOLO-pose ----


def constant_network(path, output, shape, kind):
    """An ONNX network that gives `output`, whatever image of `shape` it sees."""
    image = helper.make_tensor_value_info("image", kind, shape)
    given = helper.make_tensor_value_info("output", TensorProto.FLOAT, output.shape)
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "people"], ["output"]),
    ]
    numbers = [numpy_helper.from_array(np.array(0, np.float32), "zero"), numpy_helper.from_array(output, "people")]
    graph = helper.make_graph(nodes, "constant", [image], [given], numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


PERSON = np.stack((np.linspace(40, 90, 17), np.linspace(20, 100, 17)), 1)  # COCO's keypoints in pixels of a frame


def check_person(people, size):
    assert people.shape == (1, 18, 3)
    assert np.abs(people - people_from_coco(PERSON[None], np.full((1, 17), 0.9), size)).max() < 1e-3


@pytest.mark.parametrize("size", [(120, 160), (256, 341), (400, 300)])
def test_movenets_people_are_in_the_frame_whatever_its_shape(tmp_path, size):
    scale = 256 / max(size)
    height, width = (32 * int(np.ceil(round(side * scale) / 32)) for side in size)
    output = np.zeros((1, 6, 56), np.float32)
    output[0, 2, :51] = np.concatenate((PERSON[:, ::-1] * scale / (height, width), np.full((17, 1), 0.9)), 1).ravel()
    output[0, 2, 55], output[0, 3] = 0.8, 0.1  # another one is too weak
    path = constant_network(tmp_path / "net.onnx", output, [1, "h", "w", 3], TensorProto.INT32)
    estimator, picture = make_estimator("onnx", path, "cpu"), np.full((*size, 3), 200, np.uint8)
    prepared = estimator.prepare(picture)
    assert prepared.shape == (height, width, 3) and prepared[0, 0, 0] == 200
    check_person(estimator([picture])[0], size)


@pytest.mark.parametrize(("end_to_end", "batch"), [(False, 1), (True, 1), (False, 4)])
def test_yolos_people_are_found_once(tmp_path, end_to_end, batch):
    size, scale = (120, 160), 320 / 160
    parts = np.concatenate((PERSON * scale, np.full((17, 1), 0.9)), 1).ravel()
    if end_to_end:
        output = np.zeros((1, 300, 57), np.float32)
        output[0, 0], output[0, 1, 4] = [80, 40, 180, 200, 0.9, 0, *parts], 0.1
    else:
        output = np.zeros((1, 56, 40), np.float32)
        for column, confidence in ((3, 0.7), (4, 0.9), (9, 0.1)):  # one person twice, and a weak one
            output[0, :, column] = [130, 120, 100, 160, confidence, *parts]
    output = np.repeat(output, batch, axis=0)
    path = constant_network(tmp_path / "net.onnx", output, [batch, 3, 320, 320], TensorProto.FLOAT)
    estimator, picture = make_estimator("onnx", path, "cpu"), np.full((*size, 3), 255, np.uint8)
    prepared = estimator.prepare(picture)
    assert prepared.shape == (320, 320, 3) and prepared[0, 0, 0] == 1 and prepared[-1, 0, 0] == np.float32(114 / 255)
    check_person(estimator([picture])[0], size)


@pytest.mark.parametrize(("provider", "model"), [("CPU", "movenet"), ("CUDA", "rtmpose")])
def test_the_default_network_is_said_once(monkeypatch, capsys, provider, model):
    names = ["CPUExecutionProvider", f"{provider}ExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert default_model("auto") == model and default_model("cpu") == "movenet"
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 2 and f"found by {model}" in err


def test_movenet_finds_the_people_of_jhmdb(shared):
    if not (shared / "jhmdb").is_dir():
        pytest.skip("needs ../shared/jhmdb")
    estimator, distances = make_estimator("movenet", shared / "pose/movenet_multipose.onnx", "cpu"), []
    for name in ("Golf/v_Golf_g11_c02", "Push/v_Push_g11_c02"):
        known = load_keypoints(shared / "jhmdb/keypoints" / name.split("/v_")[1] / FILE_NAME)
        pictures = list(frames_of(shared / "jhmdb/videos" / f"{name}.mp4", FrameSettings()))[::8]
        for number, people in enumerate(estimator(pictures)):
            for person in people_of_frame(known, 1 + 8 * number)[:1]:
                both = (people[..., 2] > 0) & (person[:, 2] > 0)
                apart = np.abs(people[..., :2] - person[:, :2]).mean(2)
                distances.append(min(np.median(apart[i][both[i]]) for i in range(len(people)) if both[i].any()))
    assert len(distances) >= 8 and np.median(distances) < 0.005


@pytest.mark.parametrize("shape", [(1, 10), (1, 3, 32, 32)])
def test_networks_of_no_known_kind_are_told(tmp_path, shape):
    path = constant_network(tmp_path / "n.onnx", np.zeros(shape, np.float32), [1, 3, 64, 64], TensorProto.FLOAT)
    with pytest.raises(UserError, match=r"n\.onnx: its outputs are \(1, .*OpenPose's 19 heatmaps"):
        make_estimator("onnx", path, "cpu")


@pytest.mark.parametrize(("model", "package"), [("onnx", "onnxruntime"), ("rtmpose", "rtmlib")])
def test_missing_packages_are_named(tmp_path, monkeypatch, model, package):
    monkeypatch.setitem(sys.modules, package, None)
    weights = save_network(tmp_path / "net.onnx") if model == "onnx" else None
    with pytest.raises(UserError, match=f"needs {package}, which is not installed: pip install .*{package}"):
        make_estimator(model, weights)
