import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.cli import UserError
from pose.estimators import make_estimator
from pose.openpose import OpenPose, load_openpose, preprocess
from tests.reference_data import state_dict_shapes

VGG_LAYERS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25)
POOL_BEFORE = (5, 10, 19)


@pytest.fixture(scope="module")
def shapes():
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in OpenPose().state_dict().items()}


@pytest.fixture(scope="module")
def weights(shapes):
    """Random weights that keep the size of the activations."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        spread = 0.1 if len(shape) == 1 else (2 / np.prod(shape[1:])) ** 0.5
        state[name] = (torch.randn(shape, generator=generator) * spread).bfloat16()
    return state


def small(shapes):
    """Tensors of the given shapes that take no space in a file."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


def test_keys_and_shapes_are_those_of_the_public_weights(shapes):
    assert {name: list(shape) for name, shape in shapes.items()} == state_dict_shapes("openpose_vgg19")


def plain_forward(state, x):
    """The network from its weights alone."""

    def layer(x, name):
        weight = state[f"{name}.weight"].float()
        return F.conv2d(x, weight, state[f"{name}.bias"].float(), padding=weight.shape[-1] // 2)

    for i in VGG_LAYERS:
        x = F.relu(layer(F.max_pool2d(x, 2, 2) if i in POOL_BEFORE else x, f"model0.{i}"))
    features, seen = x, x
    for stage in range(1, 7):
        outputs = []
        for branch in (1, 2):
            y = seen
            last = 8 if stage == 1 else 12
            for i in range(0, last, 2):
                y = F.relu(layer(y, f"model{stage}_{branch}.{i}"))
            outputs.append(layer(y, f"model{stage}_{branch}.{last}"))
        seen = torch.cat([*outputs, features], 1)
    return outputs


def test_output_equals_a_direct_computation(weights, tmp_path):
    torch.save(weights, tmp_path / "pose_model.pth")
    network = load_openpose(tmp_path / "pose_model.pth")
    assert not network.training
    images = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.inference_mode():
        pafs, heatmaps = network(images)
        expected_pafs, expected_heatmaps = plain_forward(weights, images)
    assert pafs.shape == (2, 38, 8, 6) and heatmaps.shape == (2, 19, 8, 6)
    assert pafs.dtype == torch.float32 and pafs.std() > 0.01
    assert torch.allclose(pafs, expected_pafs, atol=1e-4)
    assert torch.allclose(heatmaps, expected_heatmaps, atol=1e-4)


def test_caffe_names_load_as_well(weights, tmp_path):
    vgg = "1_1 1_2 2_1 2_2 3_1 3_2 3_3 3_4 4_1 4_2 4_3_CPM 4_4_CPM".split()
    names = {f"conv{name}": f"model0.{i}" for name, i in zip(vgg, VGG_LAYERS, strict=True)}
    for branch in (1, 2):
        names |= {f"conv5_{k + 1}_CPM_L{branch}": f"model1_{branch}.{2 * k}" for k in range(5)}
        for stage in range(2, 7):
            names |= {f"Mconv{k + 1}_stage{stage}_L{branch}": f"model{stage}_{branch}.{2 * k}" for k in range(7)}
    caffe = {f"{name}.{kind}": weights[f"{own}.{kind}"] for name, own in names.items() for kind in ("weight", "bias")}
    assert len(caffe) == len(weights) and caffe["Mconv7_stage6_L1.bias"].shape == (38,)
    torch.save(caffe, tmp_path / "body_pose_model.pth")
    loaded = load_openpose(tmp_path / "body_pose_model.pth").state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in weights.items())
    caffe["Mconv1_stage2_L1.weight"] = caffe["Mconv1_stage2_L1.weight"][:, :150]  # as in a network of hands
    torch.save(caffe, tmp_path / "hand_pose_model.pth")
    with pytest.raises(
        UserError, match=r"hand_pose_model.pth: does not fit the network: model2_1\.0\.weight has shape"
    ):
        load_openpose(tmp_path / "hand_pose_model.pth")


def test_weights_come_by_themselves_and_their_licence_is_said(shapes, tmp_path, monkeypatch, capsys):
    file = io.BytesIO()
    torch.save(small(shapes), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("pose.openpose.SHA256", hashlib.sha256(file.getvalue()).hexdigest())

    def fetch(url, path, progress):
        assert url == "https://huggingface.co/lllyasviel/Annotators/resolve/main/body_pose_model.pth"
        Path(path).write_bytes(file.getvalue())

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    for said in (1, 0):
        estimator = make_estimator("openpose", None, "cpu")
        assert capsys.readouterr().err.count("non-commercial") == said
    path = tmp_path / "hub/checkpoints/body_pose_model.pth"
    assert make_estimator("openpose", path, "cpu").settings == estimator.settings  # the same weights


def test_safetensors_load_as_well(shapes, tmp_path):
    from safetensors.torch import save_file

    state = {name: torch.full(shape, 0.5, dtype=torch.float8_e4m3fn) for name, shape in shapes.items()}
    save_file(state, tmp_path / "w.safetensors")
    network = load_openpose(tmp_path / "w.safetensors")
    assert (network.model0[0].weight == 0.5).all()


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda state: state.pop("model3_2.4.bias"), r"model3_2\.4\.bias is missing"),
        (lambda state: state.update({"model0.0.bias": torch.zeros(32)}), r"model0\.0\.bias has shape \(32,\)"),
    ],
)
def test_other_weights_are_refused(shapes, tmp_path, change, reason):
    state = small(shapes)
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=reason) as caught:
        load_openpose(tmp_path / "weights.pth")
    assert str(tmp_path / "weights.pth") in str(caught.value)


class Attack:
    def __reduce__(self):
        return Path.touch, (Path("attacked"),)


def test_files_that_are_no_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = {
        "empty.pth": b"",
        "text.pth": b"weights",
        "attack.pth": pickle.dumps({"model0": Attack()}),
        "text.safetensors": b"weights",
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_openpose(name)
    assert not Path("attacked").exists()
    with pytest.raises(UserError, match=r"missing\.pth"):
        load_openpose("missing.pth")


# ---- input ----


def plain_resize(frame, size):
    """Bilinear, without antialiasing, pixel centres at halves."""
    value = frame.astype(np.float64)
    for axis, length in enumerate(size):
        places = ((np.arange(length) + 0.5) * frame.shape[axis] / length - 0.5).clip(0, frame.shape[axis] - 1)
        first = np.floor(places).astype(int)
        second = np.minimum(first + 1, frame.shape[axis] - 1)
        weight = (places - first).reshape([-1 if k == axis else 1 for k in range(3)])
        value = value.take(first, axis) * (1 - weight) + value.take(second, axis) * weight
    return value


@pytest.mark.parametrize(
    "size, valid, padded",
    [
        ((240, 320), (368, 491), (368, 496)),
        ((320, 240), (491, 368), (496, 368)),
        ((368, 368), (368, 368), (368, 368)),
        ((736, 900), (368, 450), (368, 456)),
    ],
)
def test_preprocess(size, valid, padded):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image, inner = preprocess(frame)
    assert inner == valid
    assert image.shape == (3, *padded) and image.dtype == torch.float32
    assert (image[:, valid[0] :] == -0.5).all() and (image[:, :, valid[1] :] == -0.5).all()
    expected = plain_resize(frame, valid)[:, :, ::-1].transpose(2, 0, 1)
    assert np.abs((image[:, : valid[0], : valid[1]].numpy() + 0.5) * 256 - expected).max() <= 1.01
