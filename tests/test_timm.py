"""timm's networks as backbones: each trains, resumes bit for bit, gives features, exports and predicts."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.cli import UserError
from network import build_network, cross_modality_filters, imagenet_state_dict, load_starting_weights, rgb_statistics
from tests.helpers import assert_error, call_main, train_script, train_well, write_video
from training.streams import SPATIAL, trained_stream
from utils import load_checkpoint

timm = pytest.importorskip("timm")
NETWORKS = (
    "tf_efficientnet_lite0",  # depthwise convolutions
    "mobilenetv4_conv_small",  # layers behind the pooling
    "resnet18.tv_in1k",  # a tag in its name
    "convnext_atto",  # no batch norm
    "vit_tiny_patch16_224",  # a fixed input size
)


def train(data, record, *arguments):
    train_well("spatial", data, record, *arguments)
    return load_checkpoint(record / "checkpoint.pth.tar")


@pytest.mark.parametrize("arch", NETWORKS)
def test_a_network_trains_resumes_bit_for_bit_and_is_used(tiny, tmp_path, arch):
    options = ("--arch", arch, "--image-size", 64, "--lr", 1e-5, "--freeze-bn", "partial", "--dropout", 0.2)
    whole = train(tiny, tmp_path / "whole", *options, "--epochs", 2)
    train(tiny, tmp_path / "parts", *options, "--epochs", 1)
    checkpoint = tmp_path / "parts/checkpoint.pth.tar"
    parts = train(tiny, tmp_path / "parts", *options, "--resume", checkpoint, "--epochs", 2)
    assert whole["arch"] == arch
    assert all(torch.equal(tensor, parts["state_dict"][name]) for name, tensor in whole["state_dict"].items())

    best, features = tmp_path / "whole/model_best.pth.tar", tmp_path / "features.npz"
    train(tiny, tmp_path / "whole", *options, "--resume", best, "--evaluate", "--features", features, "--positions", 2)
    network = build_network(arch, 3, 3, 64).eval()
    network.load_state_dict(load_checkpoint(best)["state_dict"])
    with np.load(features) as file:
        width = file["features"].shape[2]
    assert width == timm.create_model(arch, num_classes=0).num_features or width == network.get_classifier().in_features

    exported = call_main("export_onnx", best, tmp_path / "x.onnx")  # which compares its logits with the network's
    assert exported.returncode == 0, exported.stderr
    video = write_video(
        tmp_path / "clip.avi", np.random.default_rng(0).integers(256, size=(12, 64, 80, 3), dtype=np.uint8)
    )
    predicted = call_main("predict", video, "--spatial", best)
    assert predicted.returncode == 0 and "probability" in predicted.stdout, predicted.stderr


def test_other_channels_start_from_the_mean_of_the_rgb_filters(tmp_path):
    torch.manual_seed(0)
    imagenet = timm.create_model("tf_efficientnet_lite0", num_classes=7)
    save_file(imagenet.state_dict(), tmp_path / "rgb.safetensors")
    network = build_network("tf_efficientnet_lite0", 30, 3, 64)
    fresh = network.get_classifier().weight.clone()
    load_starting_weights(network, "tf_efficientnet_lite0", str(tmp_path / "rgb.safetensors"))
    assert torch.equal(network.conv_stem.weight, cross_modality_filters(imagenet.conv_stem.weight, 30))
    assert torch.equal(network.get_classifier().weight, fresh)
    assert torch.equal(network.conv_head.weight, imagenet.conv_head.weight)


def test_rgb_is_normalised_as_the_weights_want_it():
    assert rgb_statistics("tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)
    stream = trained_stream(SPATIAL, {"arch": "tf_efficientnet_lite0"})
    white = stream.to_input(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.int64))
    assert torch.allclose(white, torch.ones(1, 3, 2, 2))


def test_unknown_networks_are_named(tiny, tmp_path):
    finished = train_script("spatial", tiny, tmp_path, "--arch", "resnet19")
    assert_error(finished, "resnet19", "did you mean resnet1")
    with pytest.raises(UserError, match="one first convolution"):
        build_network("deit_tiny_distilled_patch16_224", 3, 2, 224)


def test_depthwise_convolutions_train_in_float32_on_a_processor():
    torch.manual_seed(0)
    network = build_network("tf_efficientnet_lite0", 3, 3)
    values = torch.randn(2, 3, 32, 32)
    inside = {}

    def note(module, inputs, output):
        inside.update(values=inputs[0].detach(), output=output.detach(), dtype=output.dtype)
        output.register_hook(lambda gradient: inside.update(gradient=gradient))

    layer = network.get_submodule("blocks.1.0.conv_dw")
    handle = layer.register_forward_hook(note)
    with torch.autocast("cpu"):
        network(values).float().square().sum().backward()
    handle.remove()
    assert inside["dtype"] == torch.bfloat16
    found, layer.weight.grad = layer.weight.grad, None
    layer(inside["values"].float()).backward(inside["gradient"].float())
    assert torch.equal(found, layer.weight.grad)

    network.eval()
    with torch.autocast("cpu"), torch.inference_mode():
        assert layer(inside["values"]).dtype == torch.bfloat16


def test_imagenet_weights_are_timms_own_or_one_line_tells_why_not(monkeypatch):
    torch.manual_seed(0)
    plain, asked = timm.create_model("resnet18"), []
    monkeypatch.setattr(timm, "create_model", lambda arch, **options: asked.append((arch, options)) or plain)
    assert imagenet_state_dict("resnet18.tv_in1k").keys() == plain.state_dict().keys()
    assert asked == [("resnet18.tv_in1k", {"num_classes": 1, "pretrained": True})]

    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=r"no route to host.*--weights FILE.*--weights none"):
        imagenet_state_dict("resnet18.tv_in1k")
