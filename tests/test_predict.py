"""predict.py against the steps that it stands for: frames, poses, both scripts, fusion."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from common.contact_sheet import fit
from common.optical_flow import flow_method
from common.records import FrameSettings
from dataloader import sampling
from dataloader.skeleton_dataloader import normalized_paths, skeleton_clips, skeleton_input
from fusion.scores import load_scores
from network import Model
from pose.graph_network import GRAPH_NETWORKS
from pose.keypoints import FILE_NAME, load_keypoints, save_keypoints
from pose.skeleton import COLORS
from prediction import overlay
from tests.helpers import assert_error, call_main, fast, moving, read_video, small, write_video
from tests.prediction_data import CLASSES, FRAMES, SIZE, STREAMS, VIDEOS, fake_estimator, people_of, write_checkpoint
from tests.test_network import random_statistics
from utils import load_checkpoint, save_checkpoint


@pytest.fixture
def data(predicted):
    return predicted


@pytest.fixture
def estimating(monkeypatch) -> list:
    """Make predict.py find `people_of` frames; the list receives the frames looked at."""
    seen = []
    monkeypatch.setattr("prediction.classify.estimator_from_arguments", lambda *args: fake_estimator(seen))
    return seen


def paths(data: Path, *numbers: int) -> list[Path]:
    return [data / "videos" / VIDEOS[number][1] for number in numbers or range(len(VIDEOS))]


def streams(data: Path) -> tuple:
    return "--spatial", data / "spatial.pth.tar", "--motion", data / "motion.pth.tar"


def run_json(data: Path, tmp_path: Path, *arguments, status: int = 0) -> dict:
    """Run predict.py; what it wrote as JSON."""
    file = tmp_path / "result.json"
    finished = call_main("predict", "--device", "cpu", "--no-amp", "--json", file, *FRAMES, *arguments)
    assert finished.returncode == status, finished.stderr
    return json.loads(file.read_text(encoding="utf-8")) | {"finished": finished}


def distance(scores: dict, data: Path, stream: str, name: str) -> float:
    """Largest difference of logits to those that the scripts gave."""
    expected = load_scores(data / f"record/{stream}/{stream}_video_preds.pickle")[name]
    return max(abs(scores["logits"][known] - value) for known, value in zip(CLASSES, expected, strict=True))


# ---- scores ----


@pytest.mark.parametrize("source", ["keypoints", "estimated"])
def test_scores_are_those_of_scripts_and_fusion(data, tmp_path, estimating, source):
    """Flow has no weight in the fusion."""
    poses = ("--keypoints", data / "pose_flow") if source == "keypoints" else ("--model", "openpose")
    flow = ("--flow", data / "flow.pth.tar", "--weights", 1, 2, 0)
    result = run_json(data, tmp_path, *paths(data), *streams(data), *flow, *poses)
    assert result["classes"] == CLASSES
    assert [video["name"] for video in result["videos"]] == [name for name, *_ in VIDEOS]
    assert [video["frames"] for video in result["videos"]] == [count for _, _, count, _ in VIDEOS]
    for video in result["videos"]:
        for stream, scores in (video["streams"] | {"fused": video["fused"]}).items():
            assert distance(scores, data, stream, video["name"]) < 2e-3
            logits = np.array(list(scores["logits"].values()))
            assert list(scores["probabilities"].values()) == pytest.approx(np.exp(logits) / np.exp(logits).sum())
            assert list(scores["logits"]) == list(scores["probabilities"])
            assert (np.diff(logits) <= 0).all()
    weights = [stream["weight"] for stream in result["streams"].values()]
    assert weights == pytest.approx([1 / 3, 2 / 3, 0])
    assert bool(estimating) == (source == "estimated")


def test_the_flow_is_made_as_in_training(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("training.streams.flow_method", lambda name, device: asked.append(name) or flow_method("dis"))
    trained = load_checkpoint(data / "flow.pth.tar") | {"options": {"flow_method": "raft"}}
    save_checkpoint(tmp_path / "raft.pth.tar", trained)
    for checkpoint in (data / "flow.pth.tar", tmp_path / "raft.pth.tar"):
        run_json(data, tmp_path, *paths(data, 1), "--flow", checkpoint)
    assert asked == ["dis", "raft"]


@pytest.mark.parametrize("stream", ["motion_pose", "skeleton"])
def test_answers_of_networks_trained_on_keypoints_are_their_scores(tiny, tmp_path, stream):
    record, poses = tmp_path / "record", tiny / "skeletons"
    places = ("--data", poses, "--ucf-list", tiny / "lists", "--record", record)
    script = {"motion_pose": "motion_pose_cnn_15", "skeleton": "skeleton_gcn_15"}[stream]
    trained = call_main(
        script, *places, *fast(stream), *small((), stream), "--epochs", 1, "--lr", 1e-3, "--least-steps", 0
    )
    assert trained.returncode == 0, trained.stderr
    expected = dict(list(load_scores(record / f"{stream}_video_preds.pickle").items())[::3])
    videos = [tmp_path / f"v_{name}.avi" for name in expected]
    for video, name in zip(videos, expected, strict=True):
        write_video(video, moving(load_keypoints(poses / name / FILE_NAME).num_frames, (32, 24)))
    option = {"motion_pose": "--motion", "skeleton": "--skeleton"}[stream]
    parts = ("--parts", tmp_path / "parts.png") if stream == "skeleton" else ()
    best = record / "model_best.pth.tar"
    result = run_json(tmp_path, tmp_path, *videos, option, best, "--keypoints", poses, *parts)
    answers = {video["name"]: video["streams"][stream]["logits"] for video in result["videos"]}
    assert np.ptp(list(expected.values()), axis=0).max() > 5e-3  # videos are told apart
    for name, vector in expected.items():
        assert [answers[name][label] for label in result["classes"]] == pytest.approx(vector.tolist(), abs=1e-5)
        if parts:
            picture = np.asarray(Image.open(tmp_path / f"parts-{name}.png").convert("RGB")).astype(int)
            red, blue = ((picture[..., i] - picture[..., 2 - i] > 60).mean() for i in (0, 2))
            assert red > 0.001 and blue > 0.001


@pytest.mark.parametrize("source", ["keypoints", "estimated"])
def test_rgb_of_the_box_of_people_is_the_same_from_disk_and_from_the_video(data, tmp_path, estimating, source):
    """People are found in all frames, and whole frames, which a run without --keypoints sees, score otherwise."""
    trained = load_checkpoint(data / "spatial.pth.tar") | {
        "options": {"keypoints": str(data / "pose_flow"), "image_size": SIZE}
    }
    save_checkpoint(tmp_path / "boxes.pth.tar", trained)
    lists = ("--ucf-list", data / "lists", "--class-index", "index.txt", "--data", data / "frames")
    test = ("--resume", tmp_path / "boxes.pth.tar", "--evaluate", "--workers", 0, "--device", "cpu", "--no-amp")
    finished = call_main("spatial_cnn_15", *lists, *test)
    assert finished.returncode == 0, finished.stderr
    expected = load_scores(tmp_path / "spatial_video_preds.pickle")
    poses = ("--keypoints", data / "pose_flow") if source == "keypoints" else ("--model", "openpose")
    result = run_json(data, tmp_path, *paths(data), "--spatial", tmp_path / "boxes.pth.tar", *poses)
    for video in result["videos"]:
        logits = video["streams"]["spatial"]["logits"]
        assert [logits[name] for name in CLASSES] == pytest.approx(expected[video["name"]].tolist(), abs=2e-3)
        assert distance(video["streams"]["spatial"], data, "spatial", video["name"]) > 5e-3
    assert len(estimating) == (source == "estimated") * sum(count for _, _, count, _ in VIDEOS)


def test_other_frames_give_other_scores(data, tmp_path, estimating):
    """What the equality above rests on: images made slightly otherwise are told apart."""
    result = run_json(data, tmp_path, *paths(data, 0), *streams(data), "--model", "openpose", "--quality", 60)
    for stream, scores in result["videos"][0]["streams"].items():
        assert distance(scores, data, stream, VIDEOS[0][0]) > 5e-3


def test_poses_are_estimated_where_the_motion_stream_looks(data, tmp_path, estimating):
    needed = {number for start in sampling.test_starts(230) for number in sampling.stack_indices(start, 230)}
    assert len(needed) < 230
    video = run_json(data, tmp_path, *paths(data, 3), *streams(data), "--model", "onnx")["videos"][0]
    assert len(estimating) == len(needed) == video["frames_looked_at"]
    frames = [np.asarray(Image.open(data / f"frames/v_long/frame{number:06d}.jpg")) for number in sorted(needed)]
    assert all((one == two).all() for one, two in zip(frames, estimating, strict=True))


def test_one_stream_alone(data, tmp_path, estimating):
    result = run_json(data, tmp_path, *paths(data, 0, 1), "--spatial", data / "spatial.pth.tar")
    assert list(result["streams"]) == ["spatial"] and result["streams"]["spatial"]["weight"] == 1
    for video in result["videos"]:
        assert distance(video["streams"]["spatial"], data, "spatial", video["name"]) < 1e-3
        assert video["fused"] == video["streams"]["spatial"] and video["frames_looked_at"] == 0
    assert not estimating


def test_keypoints_file_and_nested_folders(data, tmp_path):
    file = data / "pose_flow" / "kurz - hoch" / "keypoints.npz"
    nested = tmp_path / "flow" / "Bäume fällen" / "v_kurz - hoch"
    nested.mkdir(parents=True)
    nested.joinpath(file.name).write_bytes(file.read_bytes())
    for source in (file, file.parent, tmp_path / "flow"):
        result = run_json(data, tmp_path, *paths(data, 1), *streams(data), "--keypoints", source)
        assert distance(result["videos"][0]["streams"]["motion_pose"], data, "motion_pose", "kurz - hoch") < 1e-3


def test_people_come_without_any_option(data, tmp_path, estimating, monkeypatch):
    estimators = []
    monkeypatch.setattr(
        "prediction.classify.estimator_from_arguments", lambda *args: estimators.append(args) or fake_estimator()
    )
    result = run_json(data, tmp_path, *paths(data, 1), "--motion", data / "motion.pth.tar")
    assert distance(result["videos"][0]["streams"]["motion_pose"], data, "motion_pose", VIDEOS[1][0]) < 1e-3
    run_json(data, tmp_path, *paths(data, 1), "--spatial", data / "spatial.pth.tar")
    assert [(args.model, trained) for args, trained in estimators] == [(None, {})]


def test_original_checkpoints_take_their_classes_from_the_index(data, tmp_path):
    state = load_checkpoint(data / "spatial.pth.tar")["state_dict"]
    custom = {
        name.replace("conv1.", "conv1_custom.") if name == "conv1.weight" else name.replace("fc.", "fc_custom."): tensor
        for name, tensor in state.items()
    }
    assert "conv1_custom.weight" in custom and "layer1.0.conv1.weight" in custom
    torch.save({"epoch": 3, "state_dict": custom, "best_prec1": 78.2, "optimizer": {}}, tmp_path / "old.pth.tar")
    index = ("--ucf-list", data / "lists", "--class-index", "index.txt")
    spatial = ("--spatial", tmp_path / "old.pth.tar")
    result = run_json(data, tmp_path, *paths(data, 2), *spatial, *index)
    assert result["classes"] == CLASSES and result["streams"]["spatial"]["image_size"] == 224
    assert_error(call_main("predict", *paths(data, 0), *spatial), "old.pth.tar", "3 classes", "classInd15.txt has 15")
    assert_error(call_main("predict", *paths(data, 0), *spatial, "--class-index", "no.txt"), "no.txt", "--class-index")


def test_relevance_is_the_derivative_times_the_input(tiny):
    torch.manual_seed(0)
    network = random_statistics(GRAPH_NETWORKS.build("stgcnpp_small", 11, 3)).eval()
    model = Model(network, "stgcnpp_small", None, list(CLASSES))
    keypoints = load_keypoints(tiny / "skeletons" / "Diving_g05_c01" / FILE_NAME)
    relevance = overlay.part_relevance(model, keypoints, 1)
    assert relevance.shape == (2, 48, 18)
    model.network.double()
    sample = skeleton_clips(normalized_paths(keypoints), 48)
    inputs = skeleton_input(sample.images, sample.index).double()
    person, moment, part = np.unravel_index(np.abs(relevance).argmax(), relevance.shape)
    step = torch.zeros_like(inputs)
    step[:, person, :, moment, part] = 1e-5 * inputs[:, person, :, moment, part]
    with torch.inference_mode():
        logits = [model.network(inputs + sign * step).mean(0) for sign in (1, -1)]
        more, less = ((values[1] - values.mean()).item() for values in logits)
    assert relevance[person, moment, part] == pytest.approx((more - less) / 2e-5, rel=1e-2)


# ---- what is said ----


def test_printed_classes(data, tmp_path):
    result = run_json(data, tmp_path, *paths(data, 0), *streams(data), "--keypoints", data / "pose_flow", "--topk", 2)
    video, lines = result["videos"][0], result["finished"].stdout.splitlines()
    assert lines[1] == f"{paths(data, 0)[0]}: 30 frames, people in 29 of the 29 looked at"
    assert lines[2].split()[-3:] == ["fused", *STREAMS]
    for line, name in zip(lines[3:5], list(video["fused"]["probabilities"])[:2], strict=True):
        assert line.strip().startswith(name)
        columns = [video["fused"], *video["streams"].values()]
        expected = [100 * column["probabilities"][name] for column in columns]
        assert [float(word) for word in line.split()[-3:]] == pytest.approx(expected, abs=0.051)
    assert [line.strip() for line in lines[5:]] == video["notes"]


def test_failed_videos_are_told_and_the_others_done(data, tmp_path):
    broken = tmp_path / "brökén.avi"
    broken.write_bytes(b"RIFF" + bytes(500))
    flow = tmp_path / "flow"
    for name in ("Übung 1.a", "one"):
        flow.joinpath(name).mkdir(parents=True)
    for name, number in (("Übung 1.a", 30), ("one", 7)):  # the video has one frame
        save_keypoints(
            flow / name / "keypoints.npz", np.ones((1, 18, 3), np.float32), np.ones(1, np.int32), number, (40, 53)
        )
    videos = [tmp_path / "missing.avi", broken, *paths(data, 2, 1, 0)]
    result = run_json(data, tmp_path, *videos, *streams(data), "--keypoints", flow, status=1)
    assert [Path(video["video"]) for video in result["videos"]] == videos
    reasons = [video.get("error") for video in result["videos"]]
    assert reasons[-1] is None and all(reasons[:-1])
    assert "7 frames" in reasons[2] and "no keypoints" in reasons[3]
    assert "fused" in result["videos"][-1] and "fused" not in result["videos"][0]
    lines = [line for line in result["finished"].stderr.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 4 and "missing.avi" in lines[0] and "brökén.avi" in lines[1]


def test_scores_that_are_not_finite(data, tmp_path):
    write_checkpoint(tmp_path / "nan.pth.tar", 3, 5)
    content = load_checkpoint(tmp_path / "nan.pth.tar")
    content["state_dict"]["fc.bias"][1] = float("nan")
    save_checkpoint(tmp_path / "nan.pth.tar", content)
    result = run_json(data, tmp_path, *paths(data, 2), "--spatial", tmp_path / "nan.pth.tar", status=1)
    assert "not finite" in result["videos"][0]["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ["--spatial", "--motion"]),
        ("--motion S --keypoints FLOW", ["spatial.pth.tar", "3 input channels", "this stream's take 30"]),
        ("--spatial M", ["motion.pth.tar", "30 input channels", "this stream's take 3;"]),
        ("--spatial S --motion OTHER --keypoints FLOW", ["different classes ('Bäume fällen', 'Rowing')"]),
        ("--spatial S --motion FEWER --keypoints FLOW", ["different classes ('Diving', 'none')"]),
        ("--spatial BAD", ["bad.pth.tar", "(3,) instead of (2,)"]),
        ("--spatial VIDEO", ["one.mkv", "checkpoint"]),
        ("--spatial NONE", ["none.pth.tar", "no such file"]),
        ("--spatial S --motion M --keypoints FLOW --weights 1 2 3", ["--weights 1 2 3", "2 numbers"]),
        ("--skeleton S --keypoints FLOW", ["spatial.pth.tar", "resnet18", "this stream's take 11"]),
        ("--motion M --model onnx", ["--pose-weights"]),
        ("--spatial S --json VIDEO", ["one.mkv", "one of the videos"]),
        ("--spatial S --overlay VIDEO", ["one.mkv", "one of the videos"]),
        ("--spatial S --json FLOW", ["flow", "folder"]),
        ("--spatial S --parts x.png", ["--parts x.png", "--skeleton"]),
    ],
)
def test_mistakes(data, wrong, arguments, words):
    names = {
        "S": data / "spatial.pth.tar",
        "M": data / "motion.pth.tar",
        "FLOW": data / "pose_flow",
        "VIDEO": paths(data, 2)[0],
        "OTHER": wrong / "other.pth.tar",
        "FEWER": wrong / "fewer.pth.tar",
        "BAD": wrong / "bad.pth.tar",
        "NONE": wrong / "none.pth.tar",
    }
    finished = call_main("predict", paths(data, 2)[0], *(names.get(word, word) for word in arguments.split()))
    assert_error(finished, *words)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory) -> Path:
    """Checkpoints that do not go with the others."""
    root = tmp_path_factory.mktemp("wrong")
    write_checkpoint(root / "other.pth.tar", 30, 3, ["Tai Chi", "Rowing", "Diving"])
    write_checkpoint(root / "fewer.pth.tar", 30, 3, CLASSES[:2])
    write_checkpoint(root / "bad.pth.tar", 3, 3, ["one", "two"], count=3)
    return root


# ---- overlay ----


def test_overlays(data, tmp_path, estimating):
    file = tmp_path / "über lay.mp4"
    result = run_json(data, tmp_path, *paths(data, 0, 1), *streams(data), "--model", "openpose", "--overlay", file)
    assert len(estimating) == 36
    for (name, path, count, (width, height)), video in zip(VIDEOS, result["videos"], strict=False):
        written = tmp_path / f"über lay-{name}.mp4"
        assert video["overlay"] == str(written) and str(written) in result["finished"].stdout
        frames, rate = read_video(written)
        assert len(frames) == count and rate == 10
        scale = 480 / min(width, height)
        shown = round(width * scale), round(height * scale)
        panel = frames[0].shape[0] - shown[1]
        assert frames[0].shape[1] == shown[0] and 70 < panel < shown[1] * 0.7
        # The last part of the last person lies on top, in its colour.
        person = people_of(np.asarray(Image.open(data / f"frames/{Path(path).stem}/frame{count:06d}.jpg")))[-1]
        x, y = (int(value * length) for value, length in zip(person[17, :2], shown, strict=True))
        assert np.abs(frames[-1][y, x] - COLORS[17]).max() < 70
        # Outside of people and panel, the picture is the video's own.
        with av.open(str(data / "videos" / path)) as container:
            source = [frame.to_image().resize(shown, Image.Resampling.BILINEAR) for frame in container.decode(video=0)]
        difference = np.abs(frames[-1][: shown[1]] - np.asarray(source[-1], int)).max(axis=2)
        assert np.median(difference) < 12


def test_overlay_without_people_and_with_keypoints(data, tmp_path):
    plain, drawn = tmp_path / "plain.mp4", tmp_path / "drawn.mp4"
    for file, extra in ((plain, ()), (drawn, ("--keypoints", data / "pose_flow"))):
        run_json(data, tmp_path, *paths(data, 2), "--spatial", data / "spatial.pth.tar", "--overlay", file, *extra)
    one, two = (read_video(file)[0][0] for file in (plain, drawn))
    assert one.shape == two.shape
    changed = (np.abs(one - two).max(axis=2) > 80).mean()
    assert 0.005 < changed < 0.3


def test_sizes_of_pictures():
    assert overlay.picture_size(240, 320) == (640, 480)
    assert overlay.picture_size(720, 1280) == (1280, 720)
    assert overlay.picture_size(2160, 3840) == (1920, 1080)
    assert overlay.picture_size(1920, 1080) == (1080, 1920)
    assert overlay.picture_size(10, 4000) == (1920, 5)
    short, font = fit("word " * 50, 20, 200)
    assert short.startswith("word word") and short.endswith("…") and font.size == 15
    assert 150 < font.getlength(short) <= 200
    text, font = fit("太\x07", 20, 200)
    assert text == "太?" and font.size == 20


def test_overlay_of_odd_frames_and_failure_leaves_nothing(tmp_path, monkeypatch):
    def frames(video, settings):
        yield from [np.full((4001, 7, 3), 200, np.uint8)] * 3
        if video == "full":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(overlay, "frames_of", frames)
    monkeypatch.setattr(overlay, "rate_of", lambda video, settings: Fraction(30000, 1001))
    others = ({}, [overlay.Bars([("a", 1.0)])] * 3, FrameSettings())
    overlay.write_overlay(tmp_path / "thin.mp4", "video", *others)
    pictures, rate = read_video(tmp_path / "thin.mp4")
    assert len(pictures) == 3 and rate == Fraction(30000, 1001)
    assert pictures[0].shape[1] == overlay.MIN_WIDTH and pictures[0].shape[0] % 2 == 0
    with pytest.raises(OSError, match="No space"):
        overlay.write_overlay(tmp_path / "none.mp4", "full", *others)
    assert [path.name for path in tmp_path.iterdir()] == ["thin.mp4"]
