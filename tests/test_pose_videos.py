"""process_pose.py --videos-in: people straight from videos, without frames on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.records import FrameSettings, root_record, settings_of
from common.video import write_mp4
from pose.keypoints import load_keypoints
from tests.helpers import assert_error, call_main, write_video
from tests.pose_fixtures import BOTH, GREEN, NONE, RED, save_network, tree

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
COLORS = [RED, RED, GREEN, BOTH, NONE, GREEN, GREEN, RED]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Videos of two classes, their frames, and the network."""
    root = tmp_path_factory.mktemp("videos")
    for name, colors in {"Archery/v_Archery_g01_c01": COLORS, "Diving/v_Diving_g01_c01": COLORS[::-1]}.items():
        path = root / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, [Image.new("RGB", (64, 48), color) for color in colors], 10)
    save_network(root / "net.onnx")
    assert call_main("extract_frames", root / "videos", root / "frames", "--short-side", 48).returncode == 0
    return root


def process(data: Path, out: Path, *arguments):
    network = ("--model", "onnx", "--pose-weights", data / "net.onnx", "--device", "cpu")
    return call_main("process_pose", "--out", out, *network, "--workers", 0, "--batch-size", 3, "--images", *arguments)


@pytest.mark.parametrize("every", [1, 3, 4])
def test_people_are_those_of_the_extracted_frames(data, tmp_path, every):
    of_frames = process(data, tmp_path / "a", "--frames", data / "frames", "--every", every)
    of_videos = process(data, tmp_path / "b", "--videos-in", data / "videos", "--short-side", 48, "--every", every)
    assert of_videos.returncode == 0, of_videos.stderr
    assert of_videos.stdout == of_frames.stdout
    assert tree(tmp_path / "a").keys() == tree(tmp_path / "b").keys()
    for name in ("Archery_g01_c01", "Diving_g01_c01"):
        first, second = (load_keypoints(tmp_path / out / name / "keypoints.npz") for out in "ab")
        assert first.frame.tolist() == second.frame.tolist() and second.num_frames == len(COLORS)
        left_first = [
            people.keypoints[np.lexsort((people.keypoints[:, 1, 0], people.frame))] for people in (first, second)
        ]
        assert np.abs(left_first[0] - left_first[1]).max() < 0.02  # JPEG changes colours a little
    assert root_record(tmp_path / "b")["frames"] == root_record(data / "frames")["frames"]
    assert settings_of(root_record(tmp_path / "b")) == FrameSettings(short_side=48)


def test_frames_a_second_lists_and_resuming(data, tmp_path):
    (tmp_path / "list.txt").write_text("Diving/v_Diving_g01_c01.avi 2\nDiving/v_Diving_g09_c01.avi\n")
    arguments = ("--videos-in", data / "videos", "--fps", 5)
    finished = process(data, tmp_path / "out", *arguments, "--videos", tmp_path / "list.txt")
    assert finished.returncode == 1 and "v_Diving_g09_c01" in finished.stderr
    assert load_keypoints(tmp_path / "out/Diving_g01_c01/keypoints.npz").num_frames == len(COLORS) / 2
    before = tree(tmp_path / "out")
    again = process(data, tmp_path / "out", *arguments)
    assert [int(line.split()[-1]) for line in again.stdout.splitlines()[:3]] == [1, 1, 0]
    assert before.items() <= tree(tmp_path / "out").items()
    assert_error(process(data, tmp_path / "out", "--videos-in", data / "videos"), "with fps = 5")


def test_broken_and_damaged_videos(data, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a_text.avi").write_text("no video")
    pictures = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    write_video(videos / "whole.mp4", pictures)
    write_video(videos / "b_cut.avi", pictures, "mjpeg")
    content = (videos / "b_cut.avi").read_bytes()
    (videos / "b_cut.avi").write_bytes(content[: len(content) * 3 // 4])
    finished = process(data, tmp_path / "out", "--videos-in", videos)
    assert finished.returncode == 1 and "Traceback" not in finished.stderr
    assert f"failed: {videos / 'a_text.avi'}: cannot be read" in finished.stderr
    assert f"kept: {videos / 'b_cut.avi'}: damaged" in finished.stderr
    assert load_keypoints(tmp_path / "out/whole/keypoints.npz").num_frames == 40
    assert 20 < load_keypoints(tmp_path / "out/b_cut/keypoints.npz").num_frames < 40


def test_mistakes(data, tmp_path):
    assert_error(process(data, tmp_path / "out"), "--frames", "--videos-in")
    assert_error(process(data, tmp_path / "out", "--frames", data / "frames", "--fps", 3), "--videos-in")
    assert_error(process(data, tmp_path / "out", "--videos-in", tmp_path / "nowhere"), "nowhere: no such")
