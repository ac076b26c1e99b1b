"""A folder of own videos with hostile names through every step, from files to a confusion matrix."""

import csv
import json
import pickle
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest

from dataloader.names import pose_name
from pose.keypoints import FILE_NAME, save_keypoints
from tests import helpers
from tests.helpers import FAST, call_main

FORMATS = {".mp4": "libx264", ".avi": "mpeg4", ".mkv": "mjpeg", ".webm": "libvpx"}
SIZE = (64, 48)  # of the videos, (width, height)


def split_accents(text: str) -> str:
    """Accents as separate letters, the form that some systems give file names."""
    return unicodedata.normalize("NFD", text)


def joined(text: str) -> str:
    return unicodedata.normalize("NFC", text)


# File names by class; as stems, "clip 1.v2", "Ähre – x" and "größe" are in several classes each.
VIDEOS = {
    split_accents("Übungen (Größe 2.0)"): [
        "clip 1.v2.mp4",
        split_accents("Ähre – x.avi"),
        "v_ß_g01_c01.webm",
        "größe.mkv",
        "rock'n'roll 7.mp4",
    ],
    '-los, "jetzt" - it\'s': ["clip 1.v2.webm", "-x [1].MKV", "--help.avi", "#5 %s {0}.mp4"],
    "a.b - [c]*, $y_1$": ["v_clip 1.v2.avi", "Ähre – x.mkv", "a..mp4", "clip .mp4", "v_größe.avi", "#5 %S {0}.mkv"],
    "跳ぶ 3": ["42.mkv", "v_v_2.avi 3.mp4", "naïve\u2028café.webm", split_accents("größe.mp4")],
}
STREAMS = {"spatial": ("spatial_cnn_15", "frames"), "motion_pose": ("motion_pose_cnn_15", "pose_flow")}


def number_of_frames(place: int) -> int:
    return 4 + 3 * (place % 4)  # some shorter than a stack


def write_video(path: Path, label: int, count: int) -> None:
    """`count` pictures in a colour of the class's own, or skip the test where the format has no encoder."""
    codec = FORMATS[path.suffix.lower()]
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no encoder {codec}")
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)]
    pictures = np.full((count, SIZE[1], SIZE[0], 3), colours[label], np.uint8)
    for number, picture in enumerate(pictures):
        picture[10:30, 3 * number : 3 * number + 9] = 255
    helpers.write_video(path, pictures, codec)


def write_people(folder: Path, label: int, count: int) -> None:
    """Keypoints of one walking person, at a height of the class's own."""
    keypoints = np.ones((count, 18, 3), np.float32)
    keypoints[..., 0] = np.linspace(0.2, 0.8, 18) + 0.01 * np.arange(count)[:, None]
    keypoints[..., 1] = 0.15 + 0.2 * label + np.linspace(0, 0.1, 18)
    save_keypoints(folder / FILE_NAME, keypoints, np.arange(1, count + 1), count, SIZE[::-1])


def step(*arguments) -> str:
    finished = call_main(*arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Everything that the steps write, below one folder whose own name is hostile as well."""
    root = tmp_path_factory.mktemp("own") / split_accents("mein Körper [v1.0] 100%")
    for label, (name, files) in enumerate(VIDEOS.items()):
        for place, file in enumerate(files):
            write_video(root / "videos" / name / file, label, number_of_frames(place))
    step("UCF_list.make_lists", "--videos", root / "videos", "--out", root / "lists", "--split", "07")
    step("extract_frames", root / "videos", root / "frames", "--short-side", 40, "--workers", 0)
    for path in (root / "frames").rglob("frame000001.jpg"):
        folder = path.parent.relative_to(root / "frames")
        label = next(
            i
            for i, (name, files) in enumerate(VIDEOS.items())
            for file in files
            if Path(file).stem == folder.name and str(folder.parent) in (".", name)
        )
        write_people(root / "pose_flow" / pose_name(str(folder)), label, len(list(path.parent.glob("frame*.jpg"))))
    lists = ("--ucf-list", root / "lists", "--split", "07", "--class-index", "classInd.txt")
    poses = ("process_pose", "--out", root / "pose_flow", "--from-keypoints", "--workers", 0)
    step(*poses, "--videos", root / "lists" / "testlist07.txt")
    step(*poses, "--frames", root / "frames", "--preview", root / "preview.png")
    for stream, (script, folder) in STREAMS.items():
        record = root / "record" / stream
        common = (script, "--data", root / folder, *lists, "--val-list", "vallist07.txt", *FAST, "--record", record)
        step(*common, "--recipe", "original", "--arch", "test_resnet", "--epochs", 1)
        best = record / "model_best.pth.tar"
        trained = (record / f"{stream}_video_preds.pickle").rename(record / "of_training.pickle")
        step(*common, "--evaluate", "--resume", best)
        tested = load(record / f"{stream}_video_preds.pickle")
        for name, vector in load(trained).items():
            np.testing.assert_allclose(tested[name], vector, rtol=0, atol=1e-5)
    pickles = [root / f"record/{stream}/{stream}_video_preds.pickle" for stream in STREAMS]
    pictures = ("--frames", root / "frames", "--pose-flow", root / "pose_flow")
    step("average_fusion", *pickles, *lists, *pictures, "--out", root / "fusion")
    return root


def load(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        return pickle.load(file)


def listed(data: Path, which: str) -> list[str]:
    lines = (data / "lists" / f"{which}list07.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [line if which == "test" else line.rsplit(" ", 1)[0] for line in lines]


def key_of(line: str) -> str:
    """What a listed video is called: its stem without `v_`, below its class if several classes have it."""
    name, file = line.split("/")

    def plain(file: str) -> str:
        return joined(file[: file.rindex(".")].removeprefix("v_"))

    shared = sum(plain(file) == plain(other) for files in VIDEOS.values() for other in files) > 1
    return f"{joined(name)}/{plain(file)}" if shared else plain(file)


@pytest.mark.parametrize("stream", STREAMS)
def test_scores_of_every_test_video(data, stream):
    scores = load(data / f"record/{stream}/{stream}_video_preds.pickle")
    assert {joined(name) for name in scores} == {key_of(line) for line in listed(data, "test")}
    assert all(vector.shape == (len(VIDEOS),) for vector in scores.values())
    summary = json.loads((data / f"record/{stream}/summary.json").read_text(encoding="utf-8"))
    validated = load(data / f"record/{stream}/{stream}_video_val_preds.pickle")
    assert {joined(name) for name in validated} == {key_of(line) for line in listed(data, "val")}
    assert summary["classes"] == len(VIDEOS) and not summary["skipped"]


def test_the_confusion_matrix_names_the_classes(data):
    with open(data / "fusion" / "conf_matrix.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert sorted(header[1:]) == sorted(row[0] for row in rows) == sorted(VIDEOS)
    assert sum(int(cell) for row in rows for cell in row[1:]) == len(listed(data, "test"))


def test_predict_agrees_with_the_steps(data, tmp_path):
    line = next(line for line in listed(data, "test") if "/" in key_of(line))
    networks = (data / f"record/{stream}/model_best.pth.tar" for stream in STREAMS)
    options = [word for pair in zip(("--spatial", "--motion"), networks, strict=True) for word in pair]
    options += ["--short-side", 40, "--keypoints", data / "pose_flow", "--device", "cpu", "--no-amp"]
    options += ["--json", tmp_path / "answer.json", "--overlay", tmp_path / "it's [1] – ü.mp4"]
    finished = call_main("predict", data / "videos" / line, *options)
    assert finished.returncode == 0, finished.stderr
    answer = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    (video,) = answer["videos"]
    scores = {joined(name): vector for name, vector in load(data / "fusion" / "fusion_video_preds.pickle").items()}
    fused = np.array([video["fused"]["logits"][name] for name in answer["classes"]])
    np.testing.assert_allclose(fused, scores[key_of(line)], rtol=0, atol=1e-3)
    with av.open(video["overlay"]) as container:
        assert sum(1 for _ in container.decode(video=0)) == video["frames"]
