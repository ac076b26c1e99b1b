"""Features written and read, heads on them, and what tells ts-lstm and inception from the mean: the order."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from common.cli import UserError
from dataloader.features import join_features, load_features, save_features
from dataloader.names import Video
from dataloader.split_train_test_video import Split, read_split
from fusion.scores import load_scores
from network import IMAGE_NETWORKS, BatchNorm, classifier, read_model
from pose.graph_network import GRAPH_NETWORKS
from tests.helpers import CLASSES, STREAMS, assert_error, call_main, train_well
from training.temporal import HEADS, build_head

POSITIONS, CHANNELS = 25, 16


def ordered_videos(count: int) -> tuple[dict[str, np.ndarray], Split]:
    """Features of two classes: pattern A, later B, or B, later A, in noise; 40 % of the videos for the test."""
    generator = np.random.default_rng(0)
    patterns = 3 * generator.random((2, CHANNELS))
    videos, vectors = ([], []), {}
    for number in range(count):
        label, group = number % 2, number // 2 % 5 + 1
        video = Video(f"{'AB'[label]}_g{group:02d}_c{number:03d}", label, "AB"[label], "")
        vectors[video.name] = clip = generator.random((POSITIONS, CHANNELS))
        for pattern, start in zip(patterns[:: 1 - 2 * label], generator.integers((0, 14), (7, 21)), strict=True):
            clip[start : start + 4] += pattern
        videos[group > 3].append(video)
    return vectors, Split(["A", "B"], *videos)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "ordered.npz"
    save_features(path, *ordered_videos(200))
    return path


def train(features, record, *arguments):
    device = ("--device", "cpu", "--no-amp", "--record", record)
    return call_main("temporal_cnn_15", "--features", *features, *device, *arguments)


@pytest.mark.parametrize("head", HEADS)
def test_only_heads_that_look_at_the_order_learn_it(head, ordered, tmp_path):
    """Trained in two parts, which end with the same scores as the tests of the best model."""
    options = ("--batch-size", 16, "--lr", 1e-3, "--test-every", 6, "--val-groups", 3, "--head", head)
    assert train([ordered], tmp_path, *options, "--epochs", 6).returncode == 0
    # The head and the record are those of the checkpoint.
    resume = ("--features", ordered, "--device", "cpu", "--resume")
    finished = call_main("temporal_cnn_15", *resume, tmp_path / "checkpoint.pth.tar", "--epochs", 18)
    assert finished.returncode == 0, finished.stderr
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    prec1 = figures["test"]["prec1"]
    assert 35 < prec1 < 65 if head == "mean" else prec1 >= 95
    table = pd.read_csv(tmp_path / "temporal_train.csv")
    assert len(table) == 18 and list(table)[-1] == "lr" and (tmp_path / "curves.png").exists()
    scores = load_scores(tmp_path / "temporal_video_preds.pickle")
    assert list(scores) == [video.name for video in ordered_videos(200)[1].test]
    assert 100 * np.mean([("AB"[vector.argmax()]) == name[0] for name, vector in scores.items()]) == prec1
    tested = call_main("temporal_cnn_15", *resume, tmp_path / "model_best.pth.tar", "--evaluate")
    assert tested.returncode == 0, tested.stderr
    for name, vector in load_scores(tmp_path / "temporal_video_preds.pickle").items():
        assert np.allclose(scores[name], vector, atol=1e-5)


def test_heads_choose_on_the_validation_set_of_the_features(tmp_path):
    vectors, split = ordered_videos(60)
    save_features(tmp_path / "plain.npz", vectors, split)
    parts = [[video for video in split.train if ("_g03_" in video.name) == held_out] for held_out in (False, True)]
    save_features(tmp_path / "val.npz", vectors, Split(split.classes, parts[0], split.test, parts[1]))
    loaded = load_features(tmp_path / "val.npz").split()
    assert [[video.name for video in part] for part in (loaded.train, loaded.val)] == [
        [video.name for video in part] for part in parts
    ]
    groups = ("--val-groups", 3)
    for record, file, options in (
        ("own", "val.npz", ()),
        ("again", "val.npz", groups),
        ("groups", "plain.npz", groups),
    ):
        files, options = [tmp_path / file], (*options, "--head", "ts-lstm", "--test-every", 1)
        if record == "again":  # in two parts
            assert train(files, tmp_path / record, *options, "--epochs", 1).returncode == 0
            options += ("--resume", tmp_path / record / "checkpoint.pth.tar")
        finished = train(files, tmp_path / record, *options, "--epochs", 2)
        assert finished.returncode == 0, finished.stderr
        assert json.loads((tmp_path / record / "summary.json").read_text())["selected_on"] == "validation set"
    for name in ("temporal_video_preds.pickle", "temporal_video_val_preds.pickle"):
        scores = [(tmp_path / record / name).read_bytes() for record in ("own", "again", "groups")]
        assert scores[0] == scores[1] == scores[2]


# ---- the networks against independent computations ----


def test_ts_lstm_is_max_over_segments_then_lstm():
    torch.manual_seed(0)
    head = build_head("ts-lstm", 6, 3).eval()
    values = torch.randn(2, 25, 6)
    normal = values / (1 + 1e-5) ** 0.5  # fresh batch norm
    segments = torch.stack([normal[:, a:b].max(1).values for a, b in ((0, 9), (9, 17), (17, 25))], 1)
    expected = head.fc(head.last(head.lstm(segments)[0][:, 2]))
    assert torch.allclose(head(values), expected, atol=1e-5)
    assert head.lstm.hidden_size == 512 and head(values[:, :2]).shape == (2, 3)


def test_inception_has_the_papers_layers():
    head = build_head("inception", 40, 5)
    kinds = [(m.in_channels, m.out_channels, m.kernel_size) for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    wide = [(a, b, (1, k)) for a, b in ((1, 1), (2, 2), (4, 4), (8, 8)) for k in (5, 7)]
    assert kinds == [*wide, (16, 4, (1, 1)), (4, 2, (1, 1)), (2, 1, (1, 1))]
    values = torch.randn(3, 25, 40)
    assert head(values).shape == (3, 5) and head.wide.in_features == 40 and head.wide.out_features == 1024
    head.eval()
    assert torch.equal(head(values), head(values))
    sizes = []
    for branches in head.stages:
        branches[0].register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    head(values)
    assert sizes == [(1, 40, 25), (2, 40, 12), (4, 40, 6), (8, 40, 3)]


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_one_video(head):
    network = build_head(head, 40, 3)
    network(torch.randn(1, 25, 40)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)
    values = torch.randn(5, 4)
    assert torch.equal(BatchNorm(4)(values), torch.nn.BatchNorm1d(4)(values))


# ---- features ----


@pytest.mark.parametrize("stream", STREAMS)
def test_features_are_what_the_classifier_sees(stream, trained, tiny, tmp_path):
    best, path, clips = trained(stream) / "model_best.pth.tar", tmp_path / "f.npz", 5 if stream == "skeleton" else 19
    arguments = ("--resume", best, "--evaluate", "--features", path, "--positions", clips)
    lists = ("--val-groups", 6, "--allow-other-split")
    train_well(stream, tiny, tmp_path, *arguments, *lists)
    with np.load(path, allow_pickle=False) as file:
        assert file["features"].dtype == np.float16 and file["labels"].dtype == np.int64 and file["test"].dtype == bool
    data = load_features(path)
    split = read_split(tiny / "lists", "04", "classInd15.txt")
    assert data.features.shape[:2] == (18, clips) and data.classes == list(CLASSES)
    assert set(data.names) == {video.name for video in split.train + split.test}
    assert {name for name, test in zip(data.names, data.test, strict=True) if test} == {v.name for v in split.test}
    assert {name for name, val in zip(data.names, data.val, strict=True) if val} == {f"{c}_g06_c01" for c in CLASSES}
    assert all(data.classes[label] == name.split("_")[0] for name, label in zip(data.names, data.labels, strict=True))
    if stream == "spatial":  # frames of the made-up videos are noise, so that positions differ
        row = data.features[data.names.index("Archery_g06_c01")].astype(float)  # 23 frames, 14 starts
        starts = [1 + i * 14 // clips for i in range(clips)]
        for i in range(clips - 1):
            assert np.allclose(row[i], row[i + 1], atol=1e-3) == (starts[i] == starts[i + 1])
    # The classifier on them gives the scores of the test.
    channels = {"spatial": 3, "motion_pose": 30, "flow": 20, "skeleton": 11}[stream]
    last = classifier(read_model(best, channels, GRAPH_NETWORKS if stream == "skeleton" else IMAGE_NETWORKS).network)
    logits = last(torch.from_numpy(data.features.astype(np.float32))).mean(1).detach().numpy()
    for name, scores in load_scores(tmp_path / f"{stream}_video_preds.pickle").items():
        assert np.allclose(logits[data.names.index(name)], scores, rtol=1e-2, atol=2e-2), name


def test_streams_stand_side_by_side(tmp_path):
    vectors, split = ordered_videos(20)
    save_features(tmp_path / "a.npz", vectors, split)
    fewer = dict(list(vectors.items())[::-1][1:])  # another order, and one video less
    save_features(tmp_path / "b.npz", {name: 2 * clip[:, :3] for name, clip in fewer.items()}, split)
    joined = join_features([tmp_path / "a.npz", tmp_path / "b.npz"])
    assert joined.features.shape == (19, 25, 19) and joined.features.dtype == np.float32
    for name, clip in zip(joined.names, joined.features, strict=True):
        assert np.allclose(clip, np.concatenate([vectors[name], 2 * vectors[name][:, :3]], 1), atol=5e-3)


def test_mistakes_are_one_line(ordered, tmp_path):
    vectors, split = ordered_videos(20)

    def write(name, vectors=vectors, split=split):
        save_features(tmp_path / name, vectors, split)
        return tmp_path / name

    short = write("short.npz", {name: clip[:9] for name, clip in vectors.items()})
    other = write("other.npz", split=Split(["A", "C"], split.train, split.test))
    swapped = write("swapped.npz", split=Split(["A", "B"], split.test, split.train))
    damaged, pickled = tmp_path / "damaged.npz", tmp_path / "pickled.npz"
    damaged.write_bytes(ordered.read_bytes()[:5000])
    np.savez(pickled, features=np.array([{}], dtype=object), names=0, labels=0, test=0, classes=0)
    plain = write("plain.npz")
    for files, words in (
        ([tmp_path / "no.npz"], ("no.npz", "No such file")),
        ([damaged], (str(damaged), "cannot be read")),
        ([pickled], (str(pickled), "cannot be read")),
        ([plain, short], ("plain.npz", "short.npz", "positions")),
        ([plain, other], ("plain.npz", "other.npz", "classes")),
        ([plain, swapped], ("plain.npz", "swapped.npz", "lists")),
    ):
        assert_error(train(files, tmp_path / "record"), *words)
    assert_error(train([short], tmp_path / "record", "--head", "inception"), "9 positions", "24 or more")
    assert_error(train([plain], tmp_path / "record", "--val-groups", "9"), "--val-groups 9")
    assert_error(train([plain], tmp_path / "record", "--evaluate"), "--resume")
    assert train([plain], tmp_path / "record", "--epochs", 1, "--head", "mean").returncode == 0
    best = tmp_path / "record" / "model_best.pth.tar"
    assert_error(train([plain], tmp_path / "record", "--epochs", 1, "--head", "mean"), "holds a run")
    assert_error(train([plain], tmp_path / "record", "--resume", best, "--head", "ts-lstm"), "is a mean", "--head")
    assert_error(train([plain, plain], tmp_path / "record", "--resume", best), "16 input channels")
    assert_error(train([swapped], tmp_path / "record", "--resume", best, "--evaluate"), "other videos")
    with pytest.raises(UserError):
        load_features(best)
