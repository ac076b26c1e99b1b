"""ST-GCN++ against an independent computation of its layers, and its checkpoints."""

import numpy as np
import pytest
import torch

from common.cli import UserError
from dataloader.skeleton_dataloader import skeleton_input
from network import for_testing, load_starting_weights, read_model
from pose.graph_network import (
    DILATIONS,
    ENSEMBLES,
    GRAPH_NETWORKS,
    STAGES,
    TRUNK,
    GraphBlock,
    GraphNetwork,
    beside_the_trunk,
    part_graph,
)
from pose.skeleton import DRAWN_LIMBS, MIRROR
from tests.test_network import random_statistics
from utils import save_checkpoint

CHANNELS, CLASSES = 5, 4


def small_network() -> GraphNetwork:
    torch.manual_seed(0)
    network = random_statistics(GraphNetwork(((12, 1), (18, 2)), CHANNELS, CLASSES)).eval()
    for block in network.blocks:
        torch.nn.init.normal_(block.graph)
    return network


def clips(count: int = 2, people: int = 2, moments: int = 9) -> torch.Tensor:
    return torch.randn(count, people, CHANNELS, moments, 18, generator=torch.Generator().manual_seed(1))


# ---- the layers in plain numpy, on one person's values (C, T, 18) ----


def norm(state, name, x):
    mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    shape = (-1,) + (1,) * (x.ndim - 1)
    return (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-5) * weight.reshape(shape) + bias.reshape(shape)


def pointwise(state, name, x):
    y = np.einsum("oc,ctv->otv", state[f"{name}.weight"][:, :, 0, 0], x)
    return y + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else y


def shortcut(state, name, x, stride):
    if f"{name}.0.weight" not in state:
        return x
    return norm(state, f"{name}.1", pointwise(state, f"{name}.0", x[:, ::stride]))


def shifted(x, by):
    """x at the moment t + by; outside there is 0."""
    moved = np.zeros_like(x)
    for t in range(x.shape[1]):
        if 0 <= t + by < x.shape[1]:
            moved[:, t] = x[:, t + by]
    return moved


def block(state, x, stride):
    graph = state["graph"]
    gathered = np.stack([np.einsum("ctv,vw->ctw", x, graph[k]) for k in range(3)], axis=0)
    weights = state["mix.weight"][:, :, 0, 0].reshape(-1, 3, len(x))
    y = np.einsum("okc,kctw->otw", weights, gathered) + state["mix.bias"][:, None, None]
    y = np.maximum(norm(state, "mix_norm", y) + shortcut(state, "mix_residual", x, 1), 0)
    y = pointwise(state, "reduce", y)
    width = len(y) // 6
    mixed = np.maximum(norm(state, "reduce_norm", y[: 5 * width]), 0)
    parts = []
    for i, dilation in enumerate(DILATIONS):
        values, kernel = mixed[i * width : (i + 1) * width], state[f"branches.{i}.weight"][..., 0]
        taps = [np.einsum("oc,ctv->otv", kernel[:, :, j], shifted(values, (j - 1) * dilation)) for j in range(3)]
        parts.append(sum(taps) + state[f"branches.{i}.bias"][:, None, None])
    peaks = mixed[4 * width :]  # of values that are not negative, so that the 0 outside does not matter
    parts += [np.maximum(np.maximum(shifted(peaks, -1), peaks), shifted(peaks, 1)), y[5 * width :]]
    y = np.concatenate(parts)[:, ::stride]
    y = pointwise(state, "join", np.maximum(norm(state, "branch_norm", y), 0))
    return np.maximum(norm(state, "join_norm", y) + shortcut(state, "residual", x, stride), 0)


def logits_by_hand(network, people):
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in network.state_dict().items()}
    features = []
    for person in people.numpy().astype(np.float64):
        if not person[2].any():
            continue
        flat = person.transpose(2, 0, 1).reshape(18 * CHANNELS, -1)
        x = norm(state, "norm", flat).reshape(18, CHANNELS, -1).transpose(1, 2, 0)
        for number, module in enumerate(network.blocks):
            own = {
                n.removeprefix(f"blocks.{number}."): v for n, v in state.items() if n.startswith(f"blocks.{number}.")
            }
            x = block(own, x, module.stride)
        features.append(x.mean((1, 2)))
    return state["fc.weight"] @ np.mean(features, axis=0) + state["fc.bias"]


def test_logits_equal_an_independent_computation():
    network, inputs = small_network(), clips(3)
    inputs[1, 0, 2] = 0  # nobody is there, whatever the other channels say
    with torch.inference_mode():
        logits = network(inputs).numpy()
    expected = [logits_by_hand(network, clip) for clip in inputs]
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(for_testing(network)(inputs).detach().numpy() - logits).max() < 1e-4 * np.abs(expected).max()


def test_people_are_alike_and_videos_without_them_too():
    network, inputs = small_network(), clips()
    assert torch.allclose(network(inputs), network(inputs.flip(1)), atol=1e-5)
    logits = network(torch.zeros(2, 2, CHANNELS, 9, 18))
    assert torch.isfinite(logits).all() and torch.allclose(logits[0], logits[1], atol=1e-5)


def test_positions_and_motions_beside_the_trunk():
    clips = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 2, 8, 18, 4)).astype(np.float32))
    clips[..., 2], clips[..., 3] = 1, 1
    clips[0, 0, 2:4, :, 2] = clips[0, 0, 5, TRUNK, 2] = clips[0, 0, :, [1, 4], 2] = 0  # nobody, no trunk, parts
    clips[..., :2] *= clips[..., 2:3]
    moved = clips.clone()
    moved[..., :2] += torch.randn(2, 2, 8, 1, 2) * clips[..., 2:3]  # people, or the camera
    before, after = (beside_the_trunk(skeleton_input(values, torch.arange(2)[:, None])) for values in (clips, moved))
    assert before.shape == (2, 2, 15, 8, 18) and not torch.allclose(before[:, :, :2], after[:, :, :2])
    assert torch.allclose(before[:, :, 11:], after[:, :, 11:], atol=1e-5)
    assert not before[0, 0, 11:13, [2, 3, 5]].any() and not before[0, 0, 11:, :, [1, 4]].any()
    trunk = clips[0, 0, 0, [2, 5, 8, 11], :2].mean(0), clips[0, 0, 1, [2, 5, 8, 11], :2].mean(0)
    first, second = (clips[0, 0, t, 7, :2] - trunk[t] for t in (0, 1))
    assert torch.allclose(before[0, 0, 11:, 0, 7], torch.cat((first, second - first)), atol=1e-5)


@pytest.mark.parametrize("arch", ENSEMBLES)
def test_an_ensemble_averages_networks_which_learn_from_different_clips(arch):
    torch.manual_seed(0)
    views = ENSEMBLES[arch]
    ensemble = random_statistics(GRAPH_NETWORKS.build(arch, 11, CLASSES)).eval()
    generator = np.random.default_rng(0)
    clip = generator.normal(size=(6, 2, 16, 18, 4)).astype(np.float32)
    clip[..., 2:] = 1
    mirrored = clip[..., list(MIRROR), :] * np.float32((-1, 1, 1, 1))
    inputs, flipped = (
        skeleton_input(torch.from_numpy(values), torch.arange(6)[:, None]) for values in (clip, mirrored)
    )
    seen, flipped = beside_the_trunk(inputs), beside_the_trunk(flipped)
    logits, both = [], []
    for place, (name, channels) in enumerate(views.items()):
        assert channels[2] == 2  # the scores, which tell who is there
        alone = GraphNetwork(STAGES[arch], len(channels), CLASSES).eval()
        weight = ensemble.fc.weight.detach().chunk(len(views), 1)[place]
        alone.load_state_dict(
            ensemble.networks[name].state_dict() | {"fc.weight": weight, "fc.bias": ensemble.fc.bias.detach()}
        )
        logits.append(alone(seen[:, :, list(channels)]))
        both.append((logits[-1] + alone(flipped[:, :, list(channels)])) / 2)
    assert torch.allclose(ensemble(inputs), sum(both) / len(views), atol=1e-4)
    ensemble.train()
    for module in ensemble.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    expected = torch.stack([logits[row % len(views)][row] for row in range(6)])
    assert torch.allclose(ensemble(inputs), expected, atol=1e-4)
    assert torch.allclose(ensemble(inputs[:2]), sum(both)[:2] / len(views), atol=1e-4)


def test_the_graph_is_the_skeleton():
    graph = part_graph()
    assert torch.equal(graph[0], torch.eye(18))
    assert {(int(a), int(b)) for a, b in graph[2].nonzero()} == set(DRAWN_LIMBS)
    assert torch.equal(graph[1] > 0, graph[2].T > 0)
    assert set(graph[1:].sum(1).flatten().round(decimals=5).tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("arch", STAGES)
def test_architectures_are_told_from_their_weights(arch, tmp_path):
    network = GRAPH_NETWORKS.build(arch, 11, 3)
    assert sum(weight.numel() for weight in network.parameters()) < 1.45e6
    save_checkpoint(
        tmp_path / "a.tar",
        {"state_dict": network.state_dict(), "arch": arch, "in_channels": 11, "classes": list("abc")},
    )
    model = read_model(tmp_path / "a.tar", 11, GRAPH_NETWORKS)
    assert model.arch == arch and model.image_size is None
    with pytest.raises(UserError, match="11 input channels, this stream's take 3"):
        read_model(tmp_path / "a.tar", 3, GRAPH_NETWORKS)
    with pytest.raises(UserError, match=f"{arch}: neither torchvision's nor timm's"):
        read_model(tmp_path / "a.tar", 11)
    other = GRAPH_NETWORKS.build(arch, 11, 5)
    load_starting_weights(other, arch, str(tmp_path / "a.tar"))
    weights = zip(other.named_parameters(), network.parameters(), strict=True)
    assert all(torch.equal(one, two) for (name, one), two in weights if not name.startswith("fc."))
    assert other.fc.out_features == 5
    with pytest.raises(UserError, match=f"{arch}: neither torchvision's nor timm's"):
        load_starting_weights(other, arch, "imagenet")


def test_no_convolution_of_one_value_has_a_stride():
    """In torch 2.14 the backward pass of a strided 1×1 convolution of 11 channels writes beyond its memory."""
    for arch in STAGES:
        layers = [layer for layer in GRAPH_NETWORKS.build(arch, 11, 3).modules() if isinstance(layer, torch.nn.Conv2d)]
        assert any(layer.stride != (1, 1) for layer in layers)
        assert all(layer.stride == (1, 1) for layer in layers if layer.kernel_size == (1, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients_stay_channels_last(stride):
    # Other layouts on the way cost a third of a training step.
    block, seen = GraphBlock(6, 12, stride), []
    norms = [module for module in block.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        norm.register_full_backward_hook(lambda module, before, after: seen.append(after[0]))
    x = torch.randn(2, 6, 8, 18).to(memory_format=torch.channels_last).requires_grad_()
    block(x).sin().sum().backward()
    assert len(seen) == 2 * len(norms)
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in [*seen, x.grad])
