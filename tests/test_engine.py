"""One epoch and one test, on a tiny network and made samples."""

import math
import platform
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.frames import BrokenImage, Frames
from dataloader.frame_index import IndexedVideo
from dataloader.split_train_test_video import Video
from dataloader.video_dataset import EpochBatches, Sample, VideoDataset, VideoLoader
from network import IMAGENET_MEAN, IMAGENET_STD, Model
from tests.helpers import ROOT
from training import engine
from training.distributed import Processes
from training.engine import Context, evaluate, make_optimizer, train_one_epoch
from training.streams import SPATIAL

CPU = torch.device("cpu")


def sample(video, generator, image_size=32):
    """3 images whose pixels follow from the video's name, always the same."""
    pixels = np.random.default_rng(int(video.video.name)).integers(0, 256, (3, image_size, image_size, 3), np.uint8)
    return Sample(torch.from_numpy(pixels), torch.arange(3).view(-1, 1))


def dataset(count: int) -> VideoDataset:
    return VideoDataset([IndexedVideo(Video(str(i), i % 3, "c", str(i)), Frames("", 9)) for i in range(count)], sample)


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))


def test_steps_are_those_of_a_plain_loop():
    """Consensus, mean cross-entropy, momentum, weight decay and a schedule, weight for weight over three steps."""
    data, rates = dataset(8), (0.1, 0.05, 0.2)
    network, expected = small_network(), small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=rates[0], momentum=0.9, weight_decay=0.01)
    loader = VideoLoader(data, 0, False, batch_sampler=EpochBatches(8, 8, seed=0))
    velocity = [torch.zeros_like(weight) for weight in expected.parameters()]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for epoch, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        result = train_one_epoch(network, loader, Context(SPATIAL, CPU, optimizer=optimizer), epoch)
        images = torch.stack([data[i][1].images.permute(0, 3, 1, 2) for i in range(8)]).float() / 255
        logits = expected(((images - mean) / std).flatten(0, 1)).view(8, 3, 3).mean(1)
        loss = F.cross_entropy(logits, torch.tensor([video.label for video, _ in data.videos]))
        assert result["loss"] == pytest.approx(loss.item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for weight, gradient, moving in zip(expected.parameters(), gradients, velocity, strict=True):
                moving.mul_(0.9).add_(gradient + 0.01 * weight)
                weight.sub_(rate * moving)
        for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_parts_of_a_batch_make_the_same_step(accumulate):
    data, networks = dataset(5), []
    for parts in (1, accumulate):
        networks.append(small_network())
        optimizer = torch.optim.SGD(networks[-1].parameters(), lr=0.1)
        loader = VideoLoader(data, 0, False, batch_sampler=EpochBatches(5, 5, seed=0))
        train_one_epoch(networks[-1], loader, Context(SPATIAL, CPU, optimizer=optimizer, accumulate=parts), 0)
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(("videos", "world", "accumulate"), [(25, 8, 4), (25, 4, 3), (3, 8, 2), (9, 2, 9)])
def test_every_process_takes_as_many_forward_passes(monkeypatch, videos, world, accumulate):
    passes = []
    monkeypatch.setattr(engine, "sum_over", lambda processes, values: [videos, 0] if len(values) == 2 else values)
    for rank in range(world):
        network = small_network()
        calls = []
        network.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        batches = EpochBatches(videos, 25, 0, rank, world)
        loader = VideoLoader(dataset(videos), 0, False, batch_sampler=batches)
        context = Context(SPATIAL, CPU, accumulate=accumulate, processes=Processes(rank, world, rank))
        context.optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        train_one_epoch(network, loader, context, 0)
        passes.append(len(calls))
    assert len(set(passes)) == 1 and passes[0] >= 1


def test_a_process_without_a_whole_video_steps_with_the_others(monkeypatch):
    """All of its videos are broken: its gradient is 0, not absent."""
    monkeypatch.setattr(engine, "sum_over", lambda processes, values: [4, 0] if len(values) == 2 else [1, 1, 1, 4])
    network = small_network()
    before = [weight.detach().clone() for weight in network.parameters()]
    data = dataset(4)

    def broken(video, generator):
        raise BrokenImage("x.jpg: broken")

    data.sample = broken
    loader = VideoLoader(data, 0, False, batch_sampler=EpochBatches(4, 4, 0))
    context = Context(SPATIAL, CPU, skip_broken=True, accumulate=2, processes=Processes(0, 2, 0))
    context.optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train_one_epoch(network, loader, context, 0)
    assert all(torch.equal(a, b) and a.grad is not None for a, b in zip(network.parameters(), before, strict=True))
    assert len(context.skipped) == 4


def test_a_signal_stops_after_the_batch_it_came_in():
    network, stop, seen = small_network(), SimpleNamespace(signum=0), []

    def signal_in_second(*args):
        seen.append(1)
        stop.signum = 15 * (len(seen) == 2)

    network.register_forward_hook(signal_in_second)
    loader = VideoLoader(dataset(8), 0, False, batch_sampler=EpochBatches(8, 2, 0))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(engine.Stopped):
        train_one_epoch(network, loader, Context(SPATIAL, CPU, optimizer=optimizer, stop=stop), 0)
    assert len(seen) == 2


@pytest.mark.parametrize("enough, most", [(1, 38), (12, 38), (1000, 1000), (12, 5)])
def test_scores_do_not_depend_on_how_many_clips_go_through_at_once(monkeypatch, enough, most):
    """Batches joined until there are `enough` clips, and parts of `most`, give each video the scores it has alone."""
    data, network, seen = dataset(7), small_network(), []
    model = Model(network, "small", 32, ["a", "b", "c"])
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(engine, "for_testing", lambda network, device: network)
    expected = evaluate(model, VideoLoader(data, 0, False, batch_size=1), Context(SPATIAL, CPU))
    assert seen == [3] * 7
    seen.clear()
    monkeypatch.setattr(engine, "TEST_CLIPS", {"cpu": (enough, most)})
    result = evaluate(model, VideoLoader(data, 0, False, batch_size=2), Context(SPATIAL, CPU))
    sizes = {(1, 38): [6, 6, 6, 3], (12, 38): [12, 9], (1000, 1000): [21], (12, 5): [5, 5, 2, 5, 4]}
    assert seen == sizes[enough, most]
    assert list(result["scores"]) == list(expected["scores"])
    for name, scores in result["scores"].items():
        np.testing.assert_allclose(scores, expected["scores"][name], rtol=1e-5)


def test_the_test_takes_as_many_clips_as_fit_into_memory(monkeypatch):
    """A forward pass that is out of memory is tried with half as many clips, and later ones stay so."""
    data, network, seen = dataset(8), small_network(), []
    model = Model(network, "small", 32, ["a", "b", "c"])
    expected = evaluate(model, VideoLoader(data, 0, False, batch_size=2), Context(SPATIAL, CPU))["scores"]

    def small_memory(_, inputs):
        seen.append(len(inputs[0]))
        if seen[-1] > 3:
            raise torch.OutOfMemoryError("no memory for so many")

    monkeypatch.setattr(engine, "for_testing", lambda network, device: network)
    monkeypatch.setattr(engine, "TEST_CLIPS", {"cpu": (12, 12)})
    network.register_forward_pre_hook(small_memory)
    scores = evaluate(model, VideoLoader(data, 0, False, batch_size=2), Context(SPATIAL, CPU))["scores"]
    assert seen == [12, 6, 3, 3, 3, 3] + [3] * 4
    for name in expected:
        np.testing.assert_allclose(scores[name], expected[name], rtol=1e-5)


def test_the_first_step_may_be_skipped():
    """Where the scaler finds infinite gradients in it, the next steps are those of an optimiser that starts there."""
    args = Namespace(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.0)
    network, expected = small_network(), small_network()
    optimizer = make_optimizer(args, network.parameters(), fused=True)
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for overflow in (True, False, False):
            for weight in network.parameters():
                weight.grad = torch.ones_like(weight)
            network[2].bias.grad[0] = math.inf if overflow else 1
            scaler.scale(torch.ones(1))
            scaler.step(optimizer)
            scaler.update()
    finally:
        torch.use_deterministic_algorithms(False)
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * (1 + 1.9))


FAULTS = """
import resource, torch
from utils import keep_freed_memory
for keep in (lambda: None, keep_freed_memory):
    keep()
    for i in range(6):
        torch.ones(64 << 20, dtype=torch.uint8)
        before, now = (now if i else 0), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(now - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back at once")
def test_large_tensors_take_the_memory_of_earlier_ones():
    """The pages of 64 MiB, 16384 of 4 KiB, are new to the kernel each time by default, and not where it is kept."""
    finished = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True)
    default, kept = map(int, finished.stdout.split())
    assert kept < 100 < default
