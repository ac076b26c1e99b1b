import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.cli import UserError
from pose.coco import COCO_PARTS, group_rtmpose
from pose.estimators import make_estimator
from pose.onnx_network import group_maps
from tests.helpers import ROOT
from tests.pose_fixtures import MAP_SIZE, expected_person, person_maps, save_network

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


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


def test_onnx_network_with_other_maps(tmp_path):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["out"])],
        "copy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "copy.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="19 heatmaps and 38 PAFs"):
        make_estimator("onnx", tmp_path / "copy.onnx", "cpu")


def test_missing_onnxruntime_is_named(tmp_path):
    path = save_network(tmp_path / "net.onnx")
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pose.estimators import make_estimator\n"
        f"make_estimator('onnx', {str(path)!r})"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "needs onnxruntime, which is not installed: pip install onnxruntime" in finished.stderr


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


def test_wrong_torch_weights(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="other.pth"):
        make_estimator("openpose", tmp_path / "other.pth", "cpu")


def test_failed_download_names_the_option(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(UserError, match="https://.*body_pose_model.pth.*no network here.*--pose-weights FILE.*rtmpose"):
        make_estimator("openpose", None, "cpu")


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
