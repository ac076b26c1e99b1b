import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.cli import UserError
from pose.coco import COCO_PARTS, group_keypointrcnn
from pose.estimators import group_maps, make_estimator
from pose.onnx_network import resize_bilinear
from tests.helpers import ROOT
from tests.pose_fixtures import MAP_SIZE, expected_person, person_maps, save_network

RGB = {"channels": "rgb", "mean": (0.0,), "std": (255.0,), "input_size": (128, 192)}
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
@pytest.mark.parametrize("order", ["heatmaps-pafs", "pafs-heatmaps"])
@pytest.mark.parametrize(("outputs", "dynamic"), [(1, True), (2, False)])
def test_onnx_reads_layout_order_and_size_from_the_model(tmp_path, layout, order, outputs, dynamic):
    path = save_network(tmp_path / "net.onnx", layout=layout, order=order, outputs=outputs, dynamic=dynamic)
    options = RGB if dynamic else RGB | {"input_size": None}
    estimator = make_estimator("onnx", path, "cpu", **options)
    assert estimator.settings["layout"] == layout
    assert estimator.settings["input_size"] == [128, 192]
    people = estimator([frame(255, 0), frame(0, 255), frame(255, 255), frame(0, 0)])
    for found, columns in zip(people, [[0], [12], [0, 12], []], strict=True):
        assert_people(found, columns)


def test_onnx_preprocessing_options(tmp_path):
    path = save_network(tmp_path / "net.onnx")
    [swapped] = make_estimator("onnx", path, "cpu", **RGB | {"channels": "bgr"})([frame(0, 255)])
    assert_people(swapped, [12])  # green stays where it is
    [none] = make_estimator("onnx", path, "cpu", **RGB | {"channels": "bgr"})([frame(255, 0)])
    assert_people(none, [])  # red has become blue
    [shifted] = make_estimator("onnx", path, "cpu", **RGB | {"mean": (255.0, 0.0, 0.0)})([frame(255, 255)])
    assert_people(shifted, [12])
    [scaled] = make_estimator("onnx", path, "cpu", **RGB | {"std": (510.0,)})([frame(255, 0)])
    [plain] = make_estimator("onnx", path, "cpu", **RGB)([frame(255, 0)])
    np.testing.assert_allclose(scaled[..., 2], plain[..., 2] / 2, rtol=1e-5)


def test_onnx_networks_that_do_not_fit(tmp_path):
    good = save_network(tmp_path / "good.onnx")
    static = save_network(tmp_path / "static.onnx", dynamic=False)
    with pytest.raises(UserError, match="128x192.*--input-size"):
        make_estimator("onnx", static, "cpu", input_size=(64, 64))
    with pytest.raises(UserError, match="not nchw.*--onnx-layout"):
        make_estimator("onnx", good, "cpu", layout="nchw")
    with pytest.raises(UserError, match="--onnx-order"):  # every map is large then
        make_estimator("onnx", good, "cpu", **RGB | {"std": (0.01,)})
    (tmp_path / "junk.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match="junk.onnx: onnxruntime cannot load it"):
        make_estimator("onnx", tmp_path / "junk.onnx", "cpu")
    with pytest.raises(UserError, match="--device cuda"):
        make_estimator("onnx", good, "cuda")
    with pytest.raises(UserError, match="missing.onnx: no such file"):
        make_estimator("onnx", tmp_path / "missing.onnx")
    with pytest.raises(UserError, match="--pose-weights FILE"):
        make_estimator("onnx")
    for model in ("rtmpose", "openpose", "keypointrcnn"):
        with pytest.raises(UserError, match="good.onnx: this is an ONNX network.*--model onnx"):
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


def test_grouping_processes_do_not_import_torch():
    code = "import sys, pose.pipeline, process_pose; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


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
    with pytest.raises(UserError, match="--input-size"):
        make_estimator("openpose", weights, "cpu", input_size=(64, 64))


def coco(parts, logit=9.0):
    """Keypoints and logits of one person with a score above 0 for `parts`, part p at (p, 2p)."""
    keypoints, logits = np.zeros((1, 17, 3), np.float32), np.full((1, 17), -3, np.float32)
    for place, part in enumerate(COCO_PARTS):
        keypoints[0, place] = part, 2 * part, 1
        if part in parts:
            logits[0, place] = logit
    return keypoints, logits


def test_coco_keypoints_become_the_skeleton():
    # COCO: nose, left and right eye, ear, shoulder, elbow, wrist, hip, knee, ankle.
    assert COCO_PARTS == (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
    keypoints, logits = coco(range(18))
    logits[0, COCO_PARTS.index(2)] = 4
    [person] = group_keypointrcnn((np.array([0.99]), keypoints, logits), (100, 50))
    for part in COCO_PARTS:
        np.testing.assert_allclose(person[part, :2], [part / 50, 2 * part / 100])
        np.testing.assert_allclose(person[part, 2], 1 / (1 + np.exp(2 - (4 if part == 2 else 9))), rtol=1e-6)
    np.testing.assert_allclose(person[1], [3.5 / 50, 7 / 100, person[2, 2]], rtol=1e-6)
    assert (person[:, 2] <= 1).all()


@pytest.mark.parametrize("missing", [2, 5])
def test_no_neck_without_both_shoulders(missing):
    keypoints, logits = coco(set(range(18)) - {missing})
    [person] = group_keypointrcnn((np.array([0.99]), keypoints, logits), (100, 50))
    assert (person[[1, missing]] == 0).all()
    assert np.count_nonzero(person[:, 2]) == 16


def test_doubtful_boxes_parts_and_people_are_left_out():
    keypoints, logits = coco(range(18))
    assert group_keypointrcnn((np.array([0.69]), keypoints, logits), (100, 50)).shape == (0, 18, 3)
    keypoints, logits = coco(range(18), logit=1.99)
    assert group_keypointrcnn((np.array([0.99]), keypoints, logits), (100, 50)).shape == (0, 18, 3)
    keypoints, logits = coco({0, 14, 15})
    assert group_keypointrcnn((np.array([0.99]), keypoints, logits), (100, 50)).shape == (0, 18, 3)
    keypoints, logits = coco({0, 14, 15, 16})
    assert group_keypointrcnn((np.array([0.99]), keypoints, logits), (100, 50)).shape == (1, 18, 3)
    empty = np.zeros(0), np.zeros((0, 17, 3)), np.zeros((0, 17))
    assert group_keypointrcnn(empty, (100, 50)).shape == (0, 18, 3)


def test_keypointrcnn_is_torchvisions(tmp_path):
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    torch.manual_seed(0)
    reference = keypointrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=64, box_detections_per_img=2
    ).eval()
    state = reference.state_dict()
    # Random networks are never sure.
    state["roi_heads.box_predictor.cls_score.bias"][1] += 3
    torch.save(state, tmp_path / "keypointrcnn.pth")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.0
    reference.load_state_dict(state)
    with torch.inference_mode():
        [wanted] = reference([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
    estimator = make_estimator("keypointrcnn", tmp_path / "keypointrcnn.pth", "cpu", rcnn_side=64)
    network = estimator.infer.__closure__
    network = next(cell.cell_contents for cell in network if isinstance(cell.cell_contents, torch.nn.Module))
    network.roi_heads.detections_per_img = 2
    [(boxes, keypoints, logits)] = estimator.infer([image])
    keep = wanted["scores"].numpy() >= 0.7
    assert keep.sum() > 0
    np.testing.assert_allclose(boxes, wanted["scores"].numpy()[keep], rtol=1e-4)
    np.testing.assert_allclose(keypoints, wanted["keypoints"].numpy()[keep], atol=1e-2)
    np.testing.assert_allclose(logits, wanted["keypoints_scores"].numpy()[keep], atol=1e-3)
    assert estimator([image])[0].shape[1:] == (18, 3)
    sides = {"rcnn_side": 800}, {}  # poses that were made before there was a choice tell nothing of it
    settings = [make_estimator("keypointrcnn", tmp_path / "keypointrcnn.pth", "cpu", **side).settings for side in sides]
    assert [made.get("rcnn_side") for made in (*settings, estimator.settings)] == [None, 320, 64]


def test_wrong_torch_weights(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for model in ("openpose", "keypointrcnn"):
        with pytest.raises(UserError, match="other.pth"):
            make_estimator(model, tmp_path / "other.pth", "cpu")


def test_failed_download_names_the_option(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("common.download.urlopen", refuse)
    for model, name in (("keypointrcnn", "keypointrcnn"), ("openpose", "body_pose_model.pth")):
        with pytest.raises(UserError, match=rf"https://.*{name}.*no network here.*--pose-weights FILE.*rtmpose"):
            make_estimator(model, None, "cpu")


# ---- real images ----


def test_resizing_by_hand():
    image = np.array([[[0], [100]], [[200], [60]]], np.uint8)
    # Places of the new columns: -0.25, 0.25, 0.75, 1.25 of the old ones.
    result = resize_bilinear(image, 4, 4)[..., 0].astype(int)
    exact = np.array([[0, 100], [200, 60]], float)
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    assert np.abs(result - weights @ exact @ weights.T).max() <= 0.51
    assert result[0].tolist() == [0, 25, 75, 100]
    np.testing.assert_array_equal(resize_bilinear(image, 2, 2), image)


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
