"""Training learns, batch norm's statistics move, and mixed precision and compiling are used where asked for."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from torchvision.models import resnet18

from dataloader.features import load_features
from tests.helpers import CLASSES, STREAMS, train_well, write_images, write_lists
from utils import computes_in_half, load_checkpoint


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Two training videos and one test video of each class, told apart by their colour."""
    root = tmp_path_factory.mktemp("six")
    listed = {"train": [], "test": []}
    for label, name in enumerate(CLASSES):
        for group in (1, 2, 3):
            stem = f"{name}_g{group:02d}_c01"
            listed["test" if group == 3 else "train"].append(f"{name}/v_{stem}.avi")
            for seed, folder in enumerate((root / "frames" / f"v_{stem}", root / "pose_flow" / stem)):
                write_images(folder, 4, 100 * seed + 10 * label + group, (40, 40), label)
    write_lists(root / "lists", listed["train"], listed["test"])
    return root


def train(stream, data, record, *arguments) -> dict:
    """Run a stream's script with the six videos as one batch; returns the checkpoint."""
    train_well(stream, data, record, "--batch-size", 6, *arguments)
    return load_checkpoint(record / "checkpoint.pth.tar")


def statistics(state: dict) -> dict:
    return {name: tensor for name, tensor in state.items() if "running_" in name}


@pytest.mark.parametrize(("stream", "seed"), [("spatial", 0), ("motion_pose", 1)])
def test_six_videos_are_overfitted(stream, seed, six, tmp_path):
    arguments = ("--arch", "resnet18", "--epochs", 6, "--lr", 0.01, "--schedule", "constant", "--seed", seed)
    checkpoint = train(stream, six, tmp_path, *arguments)
    table = pd.read_csv(tmp_path / f"{STREAMS[stream][2]}_train.csv")
    assert table["Loss"][0] == pytest.approx(math.log(3), rel=0.5)
    assert table["Loss"].iloc[-1] < table["Loss"][0] / 10
    assert table["Prec@1"].iloc[-1] == 100
    steps = {int(tensor) for name, tensor in checkpoint["state_dict"].items() if "num_batches" in name}
    assert steps == {6}  # batch norm took part in training


@pytest.mark.parametrize("frozen", ["none", "all", None])
def test_batch_norm_statistics_move_unless_frozen(frozen, six, tmp_path):
    state = resnet18().state_dict()
    generator = torch.Generator().manual_seed(0)
    for tensor in statistics(state).values():
        tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    torch.save(state, tmp_path / "start.pth")
    arguments = ("--epochs", 1, "--lr", 1e-3, "--weights", tmp_path / "start.pth")
    arguments += ("--freeze-bn", frozen) if frozen else ("--recipe", "modern")
    trained = train("spatial", six, tmp_path / "record", *arguments)["state_dict"]
    for name, tensor in statistics(state).items():
        kept = frozen == "all" or frozen is None and not name.startswith("bn1.")
        assert torch.equal(trained[name], tensor) == kept, name
    assert (trained["fc.weight"].std() < 0.003) == (frozen is None)  # TSN's start of the classifier
    assert not torch.equal(trained["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_a_linear_probe_is_logistic_regression_on_features_that_stay(six, tmp_path):
    """The penalised likelihood's gradient, computed anew from saved features, is 0; the other weights stay."""
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "start.pth")
    arguments = ("--recipe", "modern", "--linear-probe", "--weights", tmp_path / "start.pth", "--no-amp")
    arguments += ("--features", tmp_path / "features.npz", "--positions", 5)
    trained = train("spatial", six, tmp_path / "record", *arguments)
    assert trained["epoch"] == 1
    trained = trained["state_dict"]
    assert all(torch.equal(trained[name], tensor) for name, tensor in state.items() if not name.startswith("fc."))
    saved = load_features(tmp_path / "features.npz")
    seen = np.stack(saved.features).astype(float).mean(1)[~saved.test]
    known = np.eye(3)[np.array(saved.labels)[~saved.test]]
    deviation = seen.std(0) + 1e-3
    weight = trained["fc.weight"].numpy() * deviation
    logits = seen @ trained["fc.weight"].numpy().T + trained["fc.bias"].numpy()
    wrong = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - known
    fit, penalty = wrong.T @ ((seen - seen.mean(0)) / deviation) / len(seen), 2 * 0.1 * weight
    assert np.abs(wrong.mean(0)).max() < 1e-3 and np.abs(fit + penalty).max() < 0.1 * np.abs(penalty).max()


def test_mixed_precision_is_used_when_asked_for(six, tmp_path):
    types = {True: set(), False: set()}

    def note(module, inputs, output):
        if isinstance(module, torch.nn.Conv2d):
            types[module.training].add(output.dtype)

    hook = register_module_forward_hook(note)
    try:
        checkpoint = train("spatial", six, tmp_path, "--epochs", 1, "--amp")
    finally:
        hook.remove()
    assert types[True] == types[False] == {torch.bfloat16}
    assert {tensor.dtype for tensor in checkpoint["state_dict"].values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("native", [False, True])
def test_mixed_precision_is_the_default_where_processors_have_it(native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert computes_in_half(torch.device("cpu")) is native
    assert computes_in_half(torch.device("cuda")) and not computes_in_half(torch.device("mps"))


def test_compiled_training_gives_the_same_network(six, tmp_path, monkeypatch):
    plain = train("spatial", six, tmp_path / "plain", "--epochs", 1)
    compiled = []

    def compile_for_eager(network, **options):
        # Dynamo traces the network, but its graphs are run as they are: machine code takes minutes to make on CPUs.
        compiled.append(network)
        return original(network, **options, backend="eager")

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile_for_eager)
    traced = train("spatial", six, tmp_path / "compiled", "--epochs", 1, "--compile")
    assert len(compiled) == 1
    assert list(traced["state_dict"]) == list(plain["state_dict"])
    for name, tensor in plain["state_dict"].items():
        assert torch.allclose(traced["state_dict"][name], tensor, atol=1e-6), name
