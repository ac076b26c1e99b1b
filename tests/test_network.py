import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from common.cli import UserError
from network import (
    build_network,
    cross_modality_filters,
    for_testing,
    load_starting_weights,
    load_strictly,
    read_model,
    torchvision_names,
    trained_channels,
)
from tests.reference_data import state_dict_shapes


def random_statistics(network: torch.nn.Module) -> torch.nn.Module:
    """Batch norm as after training: statistics and weights unlike those of a fresh layer."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return network


@pytest.fixture(scope="module")
def imagenet_file(tmp_path_factory):
    """A file in the form of torchvision's ImageNet weights."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(random_statistics(torchvision.models.resnet18()).state_dict(), path)
    return path


def test_network_equals_torchvisions_logit_for_logit(imagenet_file):
    reference = torchvision.models.resnet18()
    reference.load_state_dict(torch.load(imagenet_file))
    network = build_network("resnet18", 3, 1000)
    load_starting_weights(network, "resnet18", str(imagenet_file))
    with torch.no_grad():
        network.fc.load_state_dict(reference.fc.state_dict())
        images = torch.rand(2, 3, 112, 96)
        assert torch.equal(network.eval()(images), reference.eval()(images))


def test_cross_modality_filters():
    filters = torch.randn(64, 3, 7, 7)
    crossed = cross_modality_filters(filters, 30)
    assert crossed.shape == (64, 30, 7, 7)
    assert np.allclose(crossed.numpy(), filters.numpy().mean(1, keepdims=True), atol=1e-7)


@pytest.mark.parametrize("kind", ["pth", "safetensors", "module", "checkpoint"])
def test_starting_weights_from_a_file(imagenet_file, tmp_path, kind):
    state = torch.load(imagenet_file)
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "module":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "checkpoint" else state, path)
    network = build_network("resnet18", 30, 15)
    fresh = network.fc.weight.clone()
    load_starting_weights(network, "resnet18", str(path))
    loaded = network.state_dict()
    assert torch.equal(loaded["conv1.weight"], cross_modality_filters(state["conv1.weight"], 30))
    assert all(torch.equal(loaded[name], state[name]) for name in state if not name.startswith(("fc.", "conv1.")))
    assert torch.equal(network.fc.weight, fresh)
    with pytest.raises(UserError, match="--freeze-bn partial"):  # the statistics are those of the first convolution's
        load_starting_weights(network, "resnet18", str(path), freeze_bn="all")


def test_a_batch_of_one_clip_whose_last_map_is_one_pixel_trains():
    network = build_network("resnet18", 30, 3).train()
    network(torch.rand(1, 30, 32, 32)).sum().backward()
    images = torch.rand(2, 30, 32, 32)
    plain = torchvision.models.resnet18(num_classes=3)
    plain.conv1 = network.conv1
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network(images), plain.train()(images))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("layer3.0.bn1.weight"), "layer3.0.bn1.weight is missing"),
        (lambda s: s.update(extra=torch.zeros(2)), "extra is unknown"),
        (lambda s: s.update({"layer1.0.conv1.weight": torch.zeros(3, 3)}), r"shape \(3, 3\)"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64, 4, 7, 7)}), "conv1.weight has shape"),
        (lambda s: s.update(epoch="three"), "no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_named(imagenet_file, tmp_path, change, words):
    state = torch.load(imagenet_file)
    change(state)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=words):
        load_starting_weights(build_network("resnet18", 3, 15), "resnet18", str(tmp_path / "odd.pth"))


def test_original_names_are_mapped():
    for stream, channels in (("spatial", 3), ("motion_pose", 30)):
        state = {
            name: torch.zeros(shape, dtype=torch.int64 if "tracked" in name else torch.float32)
            for name, shape in state_dict_shapes(stream).items()
        }
        mapped = torchvision_names(state)
        assert trained_channels({}, mapped) == channels
        load_strictly(build_network("resnet18", channels, 15), mapped, "x")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_wrapped_and_bare_state_dicts_are_networks(prefix, tmp_path):
    network = build_network("resnet18", 3, 5)
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    for content in (state, {"state_dict": state}):
        torch.save(content, tmp_path / "net.pth")
        read = read_model(tmp_path / "net.pth", 3).network.state_dict()
        assert all(torch.equal(read[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("arch", "channels"), [("resnet34", 30), ("resnet50", 3)])
def test_folded_network_gives_the_same_logits(arch, channels):
    torch.manual_seed(0)
    network = random_statistics(build_network(arch, channels, 15)).eval()
    folded = for_testing(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    images = torch.rand(3, channels, 64, 64)
    with torch.inference_mode():
        expected = network(images)
        assert torch.allclose(folded(images), expected, atol=1e-4 * expected.abs().max().item())
