"""Training and testing straight from videos: the frames of extract_frames.py without their JPEGs."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from common.frames import BrokenImage
from common.records import FrameSettings
from common.video import frames_of
from dataloader.frame_index import COUNTS, holds_videos, index_videos, read_video_frames
from dataloader.names import Video
from fusion.scores import load_scores
from tests.helpers import CLASSES, FAST, assert_error, call_main, write_lists, write_people, write_video
from utils import load_checkpoint

RECORD = "checkpoint.pth.tar"
NEW = ("--recipe", "original", "--arch", "test_resnet")  # a run that starts anew


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Videos of 3 classes in class folders, 2 for training and 1 for testing each, and their lists."""
    root, listed = tmp_path_factory.mktemp("videos"), {"train": [], "test": []}
    for label, name in enumerate(CLASSES):
        for group in range(1, 4):
            path = root / "videos" / name / f"v_{name}_g{group:02d}_c01.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng((label, group)).integers(0, 90, (12 + group, 36, 48, 3)).astype(np.uint8)
            noise[..., label] += 120
            write_video(path, noise, rate=25)
            listed["test" if group == 1 else "train"].append(f"{name}/{path.name}")
    write_lists(root / "lists", listed["train"], listed["test"])
    return root


def spatial(data, record, *arguments, folder="videos"):
    places = ("--data", data / folder, "--ucf-list", data / "lists", "--record", record)
    new = () if "--resume" in arguments else NEW
    return call_main("spatial_cnn_15", *places, *FAST, *new, *arguments)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    record = tmp_path_factory.mktemp("trained")
    finished = spatial(data, record, "--epochs", 2, "--short-side", 32, "--workers", 2)
    assert finished.returncode == 0, finished.stderr
    return record


def listed(data):
    return [Video(p.stem[2:], CLASSES.index(p.parent.name), p.parent.name, p.name) for p in sorted(data.rglob("*.avi"))]


@pytest.mark.parametrize("settings", [FrameSettings(quality=None), FrameSettings(fps=10, short_side=20, quality=None)])
def test_frames_are_those_that_extraction_makes(data, tmp_path, settings):
    shutil.copytree(data / "videos", tmp_path / "videos")
    good, bad = index_videos(tmp_path / "videos", listed(data), settings)
    assert not bad and len(good) == 9
    for video in good[:2]:
        frames = list(frames_of(video.frames.folder, settings))
        assert len(frames) == video.frames.num_frames
        numbers = [3, 1, 1, video.frames.num_frames]
        read = read_video_frames(video.frames, numbers, settings)
        assert all(map(np.array_equal, read, [frames[n - 1] for n in numbers]))


def test_counts_are_kept_until_a_file_changes(data, tmp_path, monkeypatch):
    root, settings = tmp_path / "videos", FrameSettings(quality=None)
    shutil.copytree(data / "videos", root)
    first = index_videos(root, listed(data), settings)[0]
    index_videos(root, listed(data), FrameSettings(fps=5))  # whose counts are kept beside them
    assert [len(counts) for counts in json.loads((root / COUNTS).read_text()).values()] == [9, 9]
    monkeypatch.setattr("dataloader.frame_index.count_frames_of", pytest.fail)
    assert index_videos(root, listed(data), settings)[0] == first
    monkeypatch.undo()
    changed = root / "Diving" / "v_Diving_g01_c01.avi"
    write_video(changed, np.zeros((5, 36, 48, 3), np.uint8), rate=25)
    videos = {video.video.name: video.frames for video in index_videos(root, listed(data), settings)[0]}
    assert videos["Diving_g01_c01"].num_frames == 5 and videos["Diving_g02_c01"].num_frames == 14
    with pytest.raises(BrokenImage, match=r"v_Diving_g01_c01.avi: ends before its frame 9"):
        read_video_frames(videos["Diving_g01_c01"], [1, 9], settings)


def test_scores_equal_those_of_frames_extracted_without_loss(data, trained, tmp_path):
    for path in (data / "videos").rglob("*.avi"):
        folder = tmp_path / "frames" / path.stem
        folder.mkdir(parents=True)
        for number, rgb in enumerate(frames_of(path, FrameSettings(short_side=32)), 1):
            Image.fromarray(rgb).save(folder / f"frame{number:06d}.jpg", format="PNG")  # without loss
    shutil.copytree(data / "lists", tmp_path / "lists")
    scores = {}
    for folder, root in (("videos", data), ("frames", tmp_path)):
        finished = spatial(root, tmp_path / folder, "--resume", trained / RECORD, "--evaluate", folder=folder)
        assert finished.returncode == 0, finished.stderr
        scores[folder] = load_scores(tmp_path / folder / "spatial_video_preds.pickle")
    assert all(np.abs(scores["frames"][name] - values).max() < 1e-4 for name, values in scores["videos"].items())


def test_resuming_is_exact_with_any_number_of_workers(data, trained, tmp_path):
    assert spatial(data, tmp_path, "--epochs", 1, "--short-side", 32).returncode == 0
    resumed = spatial(data, tmp_path, "--resume", tmp_path / RECORD, "--epochs", 2)
    assert resumed.returncode == 0, resumed.stderr
    whole, parts = (load_checkpoint(record / RECORD) for record in (trained, tmp_path))
    assert all(torch.equal(tensor, parts["state_dict"][name]) for name, tensor in whole["state_dict"].items())
    assert parts["frames"]["short_side"] == 32 and parts["frames"]["quality"] is None


def test_broken_and_missing_files_are_named(data, tmp_path):
    own = tmp_path / "data"
    shutil.copytree(data, own)
    (own / "videos" / "Diving" / "v_Diving_g02_c01.avi").write_bytes(b"no video")
    (own / "videos" / "TaiChi" / "v_TaiChi_g03_c01.avi").unlink()
    assert_error(spatial(own, tmp_path / "a", "--epochs", 1), "v_Diving_g02_c01.avi", "2 of the 6", "--skip-broken")
    skipped = spatial(own, tmp_path / "a", "--epochs", 1, "--skip-broken")
    assert skipped.returncode == 0, skipped.stderr
    assert "Diving_g02_c01" in skipped.stderr and "TaiChi_g03_c01" in skipped.stderr
    assert holds_videos(own / "videos") and not holds_videos(own / "lists")
    (own / "frames").mkdir()
    assert call_main("extract_frames", own / "videos" / "Archery", own / "videos", "--workers", 0).returncode == 0
    assert_error(spatial(own, tmp_path / "b", "--epochs", 1), "videos and frames")


def test_decoding_ends_with_the_last_wanted_frame(data):
    path = next((data / "videos").rglob("*.avi"))
    assert len(list(frames_of(path, wanted={2}))) == 1


def test_from_videos_and_keypoints_to_a_fused_score(data, trained, tmp_path):
    for label, name in enumerate(CLASSES):
        for group in range(1, 4):
            write_people(tmp_path / "poses" / f"{name}_g{group:02d}_c01", 12 + group, 10 * label + group, label)
    lists, places = ("--ucf-list", data / "lists"), ("--frames", data / "videos", "--pose-flow", tmp_path / "poses")
    checked = call_main("check_data", *places, *lists)
    assert checked.returncode == 0 and "9 videos, 252 frames" in checked.stdout, checked.stdout
    motion = ("--data", tmp_path / "poses", "--record", tmp_path / "motion", *FAST, *NEW[2:], "--epochs", 1)
    assert call_main("motion_pose_cnn_15", *lists, *motion).returncode == 0
    assert spatial(data, tmp_path, "--resume", trained / RECORD, "--evaluate").returncode == 0
    pickles = tmp_path / "spatial_video_preds.pickle", tmp_path / "motion" / "motion_pose_video_preds.pickle"
    fused = call_main("average_fusion", *pickles, *lists, *places, "--out", tmp_path / "fusion")
    assert fused.returncode == 0 and (tmp_path / "fusion" / "misclassified.png").exists(), fused.stderr
