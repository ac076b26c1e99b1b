"""Inputs as users have them, all of ../shared/cases: what becomes of each."""

import numpy as np
import pytest

from common.cli import UserError
from common.frames import list_frames
from common.records import FrameSettings
from common.video import count_frames_of, frames_of
from dataloader.images import read_image
from dataloader.split_train_test_video import read_split
from fusion.scores import load_scores
from tests.helpers import FAST, call_main

FRAMES = ("tsn_img_from_one", "png", "from_zero", "exif_turned", "png_called_jpg_16bit")
VIDEOS = {
    "h264_b_frames.avi": 48,
    "mpeg4_packed_b_frames.avi": 47,
    "h264_b_frames_matroska.mkv": 48,
    "starts_at_1000s.mkv": (48, 79, 40),  # of 3.14 seconds by its clock
    "phone_turned.webm": 48,
    "iphone_hlg.mov": 48,
    "hevc_8bit.mp4": 48,
}
LISTS = {
    "class_without_training_video": "Wave",
    "line_twice": "trainlist01.txt, line",
    "utf16_from_notepad": "classInd.txt",
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames(shared, name):
    folder = shared / "cases" / "frames" / name / "v_Walk_g01_c01"
    pictures = [read_image(path) for path in list_frames(folder)]
    ok = [read_image(path) for path in list_frames(shared / "cases" / "frames" / "ok" / "v_Walk_g01_c01")]
    assert len(pictures) == 16 and pictures[0].shape[:2] == (120, 160)
    difference = max(np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, ok, strict=True))
    assert difference < (40 if "16bit" in name else 6)


@pytest.mark.parametrize("name", VIDEOS)
def test_videos(shared, name):
    path, damage = shared / "cases" / "videos" / name, []
    counts = [count_frames_of(path, FrameSettings(fps=fps), damage=damage) for fps in (None, 25, 12.5)]
    sizes = {rgb.shape[:2] for rgb in frames_of(path, FrameSettings(fps=25))}
    expected = VIDEOS[name]
    assert tuple(counts) == (expected if isinstance(expected, tuple) else (expected, expected, (expected + 1) // 2))
    assert len(sizes) == 1
    assert not damage or name == "phone_turned.webm"


@pytest.mark.parametrize("name", LISTS)
def test_lists(shared, name):
    with pytest.raises(UserError, match=LISTS[name]):
        read_split(shared / "cases" / "lists" / name, "01", "classInd.txt")


@pytest.mark.parametrize("name", ["rgb", "pose", "pose_keys_with_v_and_extension", "pose_lists", "pose_probabilities"])
def test_scores(shared, name):
    assert len(load_scores(shared / "cases" / "scores" / f"{name}.pickle"))


def test_short_videos_and_two_sizes(shared, tmp_path):
    cases = shared / "cases"
    lists = ("--ucf-list", cases / "short" / "lists", "--split", "01", "--class-index", "classInd.txt")
    places = ("--data", cases / "short" / "videos", "--record", tmp_path)
    new = ("--recipe", "original", "--arch", "test_resnet", "--epochs", 1)
    trained = call_main("spatial_cnn_15", *lists, *places, *FAST, *new)
    assert trained.returncode == 0, trained.stderr
    (tmp_path / "lists").mkdir()
    for file, line in {
        "classInd.txt": "1 Walk",
        "trainlist01.txt": "Walk/v_Walk_g01_c01 1",
        "testlist01.txt": "",
    }.items():
        (tmp_path / "lists" / file).write_text(f"{line}\n" if line else "Walk/v_Walk_g02_c01\n")
    only = ("--ucf-list", tmp_path / "lists", "--split", "01", "--class-index", "classInd.txt", "--only", "frames")
    checked = call_main("check_data", *only, "--frames", cases / "frames" / "mixed_sizes", "--workers", 0)
    assert checked.returncode == 1 and "pixels" in checked.stdout
