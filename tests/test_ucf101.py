"""All 101 classes of UCF101, on short synthetic videos: training, testing, fusion, and fusion over three splits."""

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import FAST, ROOT, assert_error, call_main

SPLITS = ("01", "02", "03")
STREAMS = {"spatial": ("spatial_cnn_15", "frames"), "motion_pose": ("motion_pose_cnn_15", "pose_flow")}
INDEX = ("--class-index", "classInd.txt")


def read_lines(name: str) -> list[str]:
    return (ROOT / "UCF_list" / name).read_text().split("\n")[:-1]


def class_names() -> list[str]:
    return [line.split(" ")[1] for line in read_lines("classInd.txt")]


def first_of_each_class(lines: list[str]) -> list[str]:
    """The first line of every class in a list."""
    return list({line.split("/")[0]: line for line in reversed(lines)}.values())[::-1]


def write_video(folder: Path, count: int, colour: tuple[int, int, int]) -> None:
    """`count` frames of one colour, which brightens."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (36, 32), tuple(value + number for value in colour)).save(folder / f"frame{number:06d}.jpg")


def folder_of(stream: str, path: str, number: int) -> str:
    """The name under which a listed video lies on disk, HandStandPushups in both spellings."""
    name = Path(path).stem
    if number % 2:
        name = name.replace("HandStandPushups", "HandstandPushups")
    # Both streams accept folders with and without `v_`.
    return name if (stream == "spatial") == (number % 3 > 0) else name.removeprefix("v_")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Shortened official lists, images of what split 01 trains on and all splits test on, and all scores."""
    root = tmp_path_factory.mktemp("ucf101")
    (root / "lists").mkdir()
    (root / "lists" / "classInd.txt").write_text((ROOT / "UCF_list" / "classInd.txt").read_text())
    listed = []
    for split in SPLITS:
        train, test = (first_of_each_class(read_lines(f"{which}list{split}.txt")) for which in ("train", "test"))
        test = test if split == "01" else test[int(split) - 2 :: 3]  # the others lack some classes, to save time
        listed += test if split != "01" else test + [line.split(" ")[0] for line in train]
        (root / "lists" / f"trainlist{split}.txt").write_text("\n".join(train) + "\n")
        (root / "lists" / f"testlist{split}.txt").write_text("\n".join(test) + "\n")
    labels = {name: label for label, name in enumerate(class_names())}
    for number, path in enumerate(sorted(set(listed))):
        label = labels[path.split("/")[0]]
        for stream, (_, images) in STREAMS.items():
            colour = (label % 5 * 50, label // 5 % 5 * 50, label // 25 * 50)
            write_video(root / images / folder_of(stream, path, number), 2 + number % 2, colour)
    for stream, (script, images) in STREAMS.items():
        common = (script, "--data", root / images, "--ucf-list", root / "lists", *INDEX, *FAST, "--arch", "test_resnet")
        record = root / "runs" / "01" / stream
        step(*common, "--split", "01", "--epochs", 1, "--batch-size", 32, "--record", record)
        for split in SPLITS[1:]:
            step(
                *common,
                "--split",
                split,
                "--evaluate",
                "--resume",
                record / "model_best.pth.tar",
                "--allow-other-split",
                "--record",
                root / "runs" / split / stream,
            )
    return root


def step(*arguments) -> str:
    finished = call_main(*arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def load(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        return pickle.load(file)


def expected_fusion(data: Path, split: str) -> tuple[np.ndarray, list[int], dict[str, tuple[float, float]]]:
    """Fused scores (N, 101) in the order of the test list, true labels, and (Prec@1, Prec@3) by stream."""
    classes = class_names()
    lines = (data / "lists" / f"testlist{split}.txt").read_text().split("\n")[:-1]
    names = [Path(line).stem.removeprefix("v_") for line in lines]
    labels = [classes.index(line.split("/")[0]) for line in lines]
    tables = {stream: load(data / f"runs/{split}/{stream}/{stream}_video_preds.pickle") for stream in STREAMS}
    scores = {stream: np.stack([table[name] for name in names]) for stream, table in tables.items()}
    scores["fused"] = (scores["spatial"] + scores["motion_pose"]) / 2
    figures = {}
    for stream, matrix in scores.items():
        ranks = [(row > row[label]).sum() for row, label in zip(matrix, labels, strict=True)]
        figures[stream] = tuple(100 * np.mean([rank < k for rank in ranks]) for k in (1, 3))
    return scores["fused"], labels, figures


def test_the_lists_are_those_of_101_classes(data):
    train, test = ((data / "lists" / f"{which}list01.txt").read_text().split() for which in ("train", "test"))
    assert len(train) == 202 and len(test) == 101
    folders = {path.name.removeprefix("v_") for root in ("frames", "pose_flow") for path in (data / root).iterdir()}
    assert {name[:16] for name in folders if name.lower().startswith("handstandp")} == {
        "HandStandPushups",
        "HandstandPushups",
    }


@pytest.mark.parametrize("stream", STREAMS)
def test_training_writes_scores_of_101_classes(data, stream):
    record = data / "runs" / "01" / stream
    scores = load(record / f"{stream}_video_preds.pickle")
    assert len(scores) == 101 and all(vector.shape == (101,) for vector in scores.values())
    assert "HandStandPushups_g01_c01" in scores
    summary = json.loads((record / "summary.json").read_text())
    _, _, figures = expected_fusion(data, "01")
    assert summary["classes"] == 101 and not summary["skipped"]
    assert (summary["figures"]["test"]["prec1"], summary["figures"]["test"]["prec3"]) == pytest.approx(figures[stream])


@pytest.fixture(scope="module")
def fusion(data) -> str:
    """What fusing all splits prints; it writes to data/fusion."""
    pickles = [f"{data}/runs/{{split}}/{stream}/{stream}_video_preds.pickle" for stream in STREAMS]
    return step(
        "average_fusion", *pickles, "--split", *SPLITS, "--ucf-list", data / "lists", *INDEX, "--out", data / "fusion"
    )


def read_matrix(path: Path) -> np.ndarray:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == class_names()
    return np.array([row[1:] for row in rows], int)


def test_confusion_of_101_classes(data, fusion):
    total = np.zeros((101, 101), int)
    for split in SPLITS:
        scores, labels, figures = expected_fusion(data, split)
        expected = np.zeros((101, 101), int)
        np.add.at(expected, (labels, scores.argmax(1)), 1)
        assert np.array_equal(read_matrix(data / "fusion" / f"split{split}" / "conf_matrix.csv"), expected)
        assert f"split {split}: {len(labels)} videos, 101 classes" in fusion and f"{figures['fused'][0]:.2f}" in fusion
        total += expected
    assert np.array_equal(read_matrix(data / "fusion" / "conf_matrix.csv"), total) and (total.sum(1) >= 1).all()
    for folder in ("fusion", "fusion/split01"):
        picture = np.asarray(Image.open(data / folder / "conf_matrix.png").convert("L"))
        assert min(picture.shape) > 1500 and picture.std() > 5


def test_mean_and_spread_over_splits(data, fusion):
    summary = json.loads((data / "fusion" / "summary.json").read_text())
    figures = [expected_fusion(data, split)[2] for split in SPLITS]
    for stream in ("spatial", "motion_pose", "fused"):
        values = np.array([one[stream] for one in figures])
        for column, name in enumerate(("prec1", "prec3")):
            mean, std = np.mean(values[:, column]), np.std(values[:, column], ddof=1)
            assert summary["mean"][stream][name] == pytest.approx(mean)
            assert summary["std"][stream][name] == pytest.approx(std)
            assert f"{mean:.2f} ± {std:.2f}" in fusion


def test_the_wrong_class_index_is_named(data, tmp_path):
    (tmp_path / "classInd15.txt").write_text((ROOT / "UCF_list" / "classInd15.txt").read_text())
    for name in ("trainlist01.txt", "testlist01.txt"):
        (tmp_path / name).write_text((data / "lists" / name).read_text())
    finished = call_main(
        "spatial_cnn_15",
        "--data",
        data / "frames",
        "--ucf-list",
        tmp_path,
        "--split",
        "01",
        *FAST,
        "--record",
        tmp_path,
    )
    assert_error(finished, "'ApplyEyeMakeup/", "--class-index")
