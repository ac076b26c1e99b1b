"""What a run may do beyond the original method: schedules, regularisation, averaging, cheaper tests."""

from argparse import Namespace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from dataloader.images import CROP_SIZES, corner_crop, jitter_colors, resize, resized_crop
from dataloader.video_dataset import EpochBatches, VideoLoader
from fusion.scores import load_scores
from network import IMAGENET_MEAN, IMAGENET_STD, add_dropout, build_network
from tests.helpers import train_well
from tests.test_engine import CPU, dataset, small_network
from training import run
from training.engine import Context, average_weights, rate_factor, train_one_epoch
from training.streams import MOTION_POSE, SPATIAL, trained_stream
from utils import load_checkpoint, save_checkpoint

EVERYTHING = (
    *("--schedule", "cosine", "--warmup", 0.5, "--weight-decay", 1e-3, "--dropout", 0.5, "--label-smoothing", 0.1),
    *("--ema", 0.9, "--freeze-bn", "--test-every", 2, "--test-clips", 3, "--crop", "corner", "--color-jitter", 0.4),
    "--amp",
)


train = partial(train_well, "spatial")


def test_schedules():
    args = Namespace(schedule="cosine", warmup=1.0, epochs=11)
    factors = [rate_factor(args, epoch) for epoch in (0, 0.25, 1, 6, 11)]
    assert factors == pytest.approx([0, 0.25, 1, 0.5, 0])
    args.schedule, args.warmup = "constant", 2.0
    assert [rate_factor(args, epoch) for epoch in (1, 3)] == [0.5, 1]


def test_the_rate_is_set_for_every_step():
    rates = []
    optimizer = torch.optim.SGD(small_network().parameters(), lr=99)
    optimizer.register_step_pre_hook(lambda *args: rates.append(optimizer.param_groups[0]["lr"]))
    context = Context(SPATIAL, CPU, optimizer=optimizer, rate=lambda epoch: 10 * epoch)
    loader = VideoLoader(dataset(8), 0, False, batch_sampler=EpochBatches(8, 2, 0))
    train_one_epoch(small_network(), loader, context, 2)
    assert rates == pytest.approx([21.25, 23.75, 26.25, 28.75])


def test_label_smoothing_is_that_of_the_formula():
    network, data = small_network(), dataset(6)
    images = torch.stack([data[i][1].images.permute(0, 3, 1, 2) for i in range(6)]).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    logits = network(((images - mean) / std).flatten(0, 1)).view(6, 3, 3).mean(1).log_softmax(1)
    smooth = 0.8 * F.one_hot(torch.tensor([video.label for video, _ in data.videos]), 3) + 0.2 / 3
    (gradient,) = torch.autograd.grad(-(smooth * logits).sum(1).mean(), [network[2].weight], retain_graph=True)
    expected = network[2].weight.detach() - 0.1 * gradient
    plain = F.nll_loss(logits, torch.tensor([video.label for video, _ in data.videos])).item()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loader = VideoLoader(data, 0, False, batch_sampler=EpochBatches(6, 6, 0))
    context = Context(SPATIAL, CPU, optimizer=optimizer, label_smoothing=0.2)
    # What is told is the loss without smoothing, which compares with the test's.
    assert train_one_epoch(network, loader, context, 0)["loss"] == pytest.approx(plain)
    assert torch.allclose(network[2].weight, expected, atol=1e-6)


def test_average_of_the_weights():
    network = small_network()
    averaged, expected = average_weights(network, 0.5), None
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loader = VideoLoader(dataset(8), 0, False, batch_sampler=EpochBatches(8, 8, 0))
    for epoch in range(4):
        train_one_epoch(network, loader, Context(SPATIAL, CPU, averaged=averaged, optimizer=optimizer), epoch)
        weight = network[2].weight.detach().clone()
        keep = min(0.5, (1 + epoch) / (10 + epoch))
        expected = weight if expected is None else keep * expected + (1 - keep) * weight
    assert torch.allclose(averaged.module[2].weight, expected, atol=1e-6)
    assert not torch.allclose(averaged.module[2].weight, network[2].weight)


def test_dropout_before_the_classifier_in_training_only():
    network = build_network("resnet18", 3, 5)
    plain = dict(network.named_parameters())
    add_dropout(network, 0.5)
    seen = []
    network.fc.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0] == 0).float().mean().item()))
    images = torch.randn(4, 3, 64, 64)
    network.train()(images)
    network.eval()(images)
    assert 0.3 < seen[0] < 0.7 and seen[1] < 0.1
    assert dict(network.named_parameters()).keys() == plain.keys()


def test_resuming_is_exact_under_every_flag(tiny, tmp_path, monkeypatch):
    def save_each(path, checkpoint):
        save_checkpoint(path, checkpoint)
        save_checkpoint(path.with_name(f"epoch{checkpoint['epoch']}.tar"), checkpoint)

    monkeypatch.setattr(run, "save_checkpoint", save_each)
    monkeypatch.setattr(run, "UNSAVED_SECONDS", 0)
    options = (*EVERYTHING, "--epochs", 5)
    train(tiny, tmp_path / "whole", *options)
    train(tiny, tmp_path / "resumed", *options, "--resume", tmp_path / "whole" / "epoch3.tar")
    ours, theirs = (load_checkpoint(tmp_path / name / "checkpoint.pth.tar") for name in ("resumed", "whole"))
    for part in ("state_dict", "training_state_dict"):
        for name, tensor in theirs[part].items():
            assert torch.equal(ours[part][name], tensor), (part, name)
    assert ours["averaged_steps"] == theirs["averaged_steps"] == 15
    assert not torch.equal(ours["state_dict"]["conv1.0.weight"], ours["training_state_dict"]["conv1.0.weight"])
    rates = pd.read_csv(tmp_path / "whole" / "rgb_train.csv")["lr"].tolist()
    assert pd.read_csv(tmp_path / "resumed" / "rgb_train.csv")["lr"].tolist() == rates[3:]
    assert rates[0] > rates[4] > 0


def test_tests_between_epochs_may_be_fewer_and_smaller(tiny, tmp_path):
    options = ("--epochs", 5, "--test-every", 2, "--test-clips", 2, "--val-groups", "6")
    train(tiny, tmp_path, *options)
    assert len(pd.read_csv(tmp_path / "rgb_train.csv")) == 5
    assert pd.read_csv(tmp_path / "rgb_val.csv")["Epoch"].tolist() == [1, 3, 4]
    # The scores that are left are those of 19 samples, by the best model.
    names = ("spatial_video_val_preds.pickle", "spatial_video_preds.pickle")
    trained = [load_scores(tmp_path / name) for name in names]
    train(tiny, tmp_path, "--resume", tmp_path / "model_best.pth.tar", "--evaluate")
    for before, name in zip(trained, names, strict=True):
        after = load_scores(tmp_path / name)
        assert list(before) == list(after)
        assert all(np.allclose(before[video], after[video], atol=1e-5) for video in before)


def test_batch_norm_frozen_in_part(trained, tiny, tmp_path):
    start = trained("spatial") / "checkpoint.pth.tar"
    train(tiny, tmp_path, "--epochs", 3, "--resume", start, "--freeze-bn")
    before, after = (load_checkpoint(path)["state_dict"] for path in (start, tmp_path / "checkpoint.pth.tar"))
    moved = {name for name in before if "running_" in name and not torch.equal(before[name], after[name])}
    assert moved == {"conv1.1.running_mean", "conv1.1.running_var"}


def test_stacks_of_several_segments(tiny, tmp_path):
    train_well("motion_pose", tiny, tmp_path, "--segments", 3, "--normalize", "--epochs", 1)
    options = load_checkpoint(tmp_path / "checkpoint.pth.tar")["options"]
    assert options["segments"] == 3 and options["normalize"]
    assert trained_stream(MOTION_POSE, options).to_input.keywords["std"]
    assert trained_stream(MOTION_POSE, {}).to_input.keywords["std"] is None
    assert trained_stream(SPATIAL, {}) == SPATIAL


@pytest.mark.parametrize(("schedule", "best"), [("cosine", 3), ("plateau", 1)])
def test_of_equal_epochs_the_later_one_is_kept_if_the_rate_is_annealed(schedule, best, tiny, tmp_path):
    options = ("--schedule", schedule, "--lr", 1e-20, "--momentum", 0, "--epochs", 3, "--freeze-bn", "all")
    train_well("spatial", tiny, tmp_path, *options)
    assert len(set(pd.read_csv(tmp_path / "rgb_test.csv")["Prec@1"])) == 1
    assert load_checkpoint(tmp_path / "model_best.pth.tar")["epoch"] == best


def test_resized_crops():
    images = torch.randint(0, 256, (2, 60, 80, 3), dtype=torch.uint8)
    assert torch.equal(resized_crop(images, 40, (0.9, 0.9, 1.0, 0.5)), resize(images, 40, 40))  # all of them
    half = resized_crop(images, 40, (0.0, 0.999, 0.0, 0.5))  # half of the area, top right, in the images' own ratio
    assert torch.equal(half, resize(images[:, :42, -57:], 40, 40))
    flat = resized_crop(images, 40, (0.999, 0.0, 0.0, 0.0))
    assert torch.equal(flat, resize(images[:, -37:, :65], 40, 40))
    for draws in np.random.default_rng(0).random((50, 4)):
        assert resized_crop(images, 32, draws).shape == (2, 32, 32, 3)


def test_corner_crops():
    ramp = torch.arange(40 * 60).view(40, 60, 1).expand(-1, -1, 3).float()
    images = (ramp / ramp.max() * 255).to(torch.uint8)
    assert len(CROP_SIZES) == 10 and all(abs(a - b) < 0.22 for a, b in CROP_SIZES)
    assert torch.equal(corner_crop(images, 40, (0.0, 0.0)), images[:, :40])  # scale 1, top left
    assert torch.equal(corner_crop(images, 40, (0.0, 0.7)), images[:, 20:])  # bottom right
    assert torch.equal(corner_crop(images, 40, (0.0, 0.9)), images[:, 10:50])  # centre
    assert corner_crop(images, 32, (0.99, 0.0)).shape == (32, 32, 3)


def test_colour_jitter():
    images = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(jitter_colors(images, 0.4, (0.5, 0.5, 0.5)), images)
    brighter = jitter_colors(images // 2, 0.4, (1.0, 0.5, 0.5)).float()
    assert torch.allclose(brighter, (images // 2).float() * 1.4, atol=1)
