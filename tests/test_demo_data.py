"""The demo data: figures, movements, keypoints, and the files that make_demo_data.py writes."""

import hashlib
from itertools import islice

import av
import numpy as np
import pytest

import make_demo_data
from dataloader.names import group_of
from dataloader.split_train_test_video import read_class_index, read_split
from demo_data.classes import ACTIONS
from demo_data.clip import HEIGHT, WIDTH, render, stage
from demo_data.detector import detect
from demo_data.figure import Camera, joints, random_body
from pose.keypoints import load_keypoints
from tests.helpers import ROOT, assert_error, call_main


def make(out, *options):
    return call_main("make_demo_data", out, *options)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "demo data"
    result = make(out, "--groups", 2, "--clips", 1, "--seed", 4)
    assert result.returncode == 0, result.stderr
    return out


# ---- classes ----


def test_classes_are_those_of_split_04_in_its_order():
    names = [action.name for action in ACTIONS]
    assert names == read_class_index(ROOT / "UCF_list" / "classInd15.txt")
    all_names = read_class_index(ROOT / "UCF_list" / "classInd.txt")
    assert [action.number for action in ACTIONS] == [all_names.index(name) + 1 for name in names]
    assert all(sum(action.places.values()) == pytest.approx(1) for action in ACTIONS)


# ---- figures ----


def test_camera_shows_the_left_hand_of_one_who_faces_us_on_the_right():
    left, up, ahead = np.eye(3)
    assert Camera(0, 0, 50).project(left)[0].tolist() == [50, 0]
    assert Camera(0, 0, 50).project(up)[0].tolist() == [0, -50]
    assert Camera(0, 0, 50).project(ahead)[1] == 1
    np.testing.assert_allclose(Camera(np.pi / 2, 0, 50).project(ahead)[0], [50, 0], atol=1e-9)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_bones_keep_their_lengths_and_joints_move_without_jumps(action):
    rng = np.random.default_rng(0)
    body, clock = random_body(rng), np.arange(80) / 25
    pose = action.move(body, clock, rng, 4.0) if action.drop else action.move(body, clock, rng)
    points = joints(body, pose)
    assert points.shape == (80, 22, 3)
    for a, b, length in ((2, 3, body.upper_arm), (6, 7, body.forearm), (8, 9, body.thigh), (12, 13, body.shin)):
        np.testing.assert_allclose(np.linalg.norm(points[:, a] - points[:, b], axis=1), length, rtol=1e-6)
    assert np.ptp(points[:, :14], axis=0).max() > 0.05  # something moves
    speed = np.linalg.norm(np.diff(points, axis=0), axis=2) * 25
    assert speed.max() < 30, f"{speed.max():.0f} m/s at {np.unravel_index(speed.argmax(), speed.shape)}"


# ---- clips ----


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_the_person_is_drawn_where_its_parts_are(action):
    clip = stage(action, 7, 3, 1)
    frames = [np.asarray(frame).astype(int) for frame in islice(render(clip), 11)]
    parts = clip.parts(clip.person)
    assert ((parts[0] > 0) & (parts[0] < (WIDTH, HEIGHT))).all(1).sum() >= 12
    for moment in (0, 10):
        left, top = clip.path[moment].astype(int)
        empty = np.asarray(clip.background.crop((left, top, left + WIDTH, top + HEIGHT))).astype(float)
        empty = np.clip(empty * clip.light[moment] * clip.tone, 0, 255)
        changed = np.abs(frames[moment] - empty).max(2) > 12
        neck, pelvis = parts[moment, 1], clip.person.points[moment, 21] - clip.path[moment]
        x, y = np.rint((neck + pelvis) / 2).astype(int)
        if 3 <= x < WIDTH - 3 and 3 <= y < HEIGHT - 3:
            assert changed[y - 3 : y + 4, x - 3 : x + 4].mean() > 0.5
        assert changed.mean() < 0.4


def test_clips_of_a_group_share_the_person_and_differ_in_time():
    action = ACTIONS[2]
    one, other, stranger = stage(action, 0, 1, 1), stage(action, 0, 1, 2), stage(action, 0, 2, 1)
    assert one.person.body == other.person.body
    assert one.person.clothes == other.person.clothes
    assert one.person.body != stranger.person.body
    assert one.person.body != stage(action, 1, 1, 1).person.body
    assert one.person.points.shape != other.person.points.shape or not np.allclose(
        one.person.points, other.person.points
    )


def test_keypoints_are_near_the_truth_yet_noisy_and_incomplete():
    errors, found, total, missed_frames = [], 0, 0, 0
    for action in ACTIONS:
        clip = stage(action, 1, 2, 1)
        clip.bystanders.clear()
        people, frame = detect(clip, np.random.default_rng(0))
        truth = clip.parts(clip.person)
        total += truth.shape[0] * 18
        missed_frames += len(set(range(1, len(truth) + 1)) - set(frame.tolist()))
        for person, number in zip(people, frame, strict=True):
            seen = person[:, 2] > 0
            distance = np.linalg.norm(person[:, :2] * (WIDTH, HEIGHT) - truth[number - 1], axis=1)
            errors += distance[seen].tolist()
            found += seen.sum()
    assert np.median(errors) < 5
    assert 0.01 < (np.array(errors) > 15).mean() < 0.3  # swaps, strays and clutter
    assert 0.55 < found / total < 0.97
    assert missed_frames > 0


# ---- files ----


def test_videos_keypoints_and_lists_fit_together(demo):
    split = read_split(demo / "UCF_list", "04", "classInd15.txt")
    assert len(split.train) == len(split.test) == 15
    assert not {group_of(video) for video in split.train} & {group_of(video) for video in split.test}
    for video in split.train[::5] + split.test[::5]:
        with av.open(str(demo / "videos" / video.path)) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            assert (stream.width, stream.height, stream.average_rate) == (320, 240, 25)
        assert 40 <= frames <= 80
        keypoints = load_keypoints(demo / "pose_flow" / video.name / "keypoints.npz")
        assert keypoints.num_frames == frames
        assert keypoints.frame_size == (240, 320)
        assert len(keypoints.keypoints) > frames / 3
    lines = (demo / "UCF_list" / "trainlist04.txt").read_text().splitlines()
    assert lines[0] == "Archery/v_Archery_g02_c01.avi 3"
    assert lines[-1] == "WallPushups/v_WallPushups_g02_c01.avi 99"


def test_a_second_run_repairs_what_is_missing_and_touches_nothing_else(demo):
    before = digests(demo)
    stamps = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file()}
    lost = demo / "videos/Diving/v_Diving_g02_c01.avi", demo / "pose_flow/Lunges_g01_c01/keypoints.npz"
    for path in lost:
        path.unlink()
    assert "2 of them new" in make(demo, "--groups", 2, "--clips", 1, "--seed", 4, "--workers", 0).stdout
    assert digests(demo) == before
    changed = {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert {path.stem.removeprefix("v_") for path in changed if path.suffix == ".avi"} == {
        "Diving_g02_c01",
        "Lunges_g01_c01",
    }
    assert len(changed) == 6  # the video, keypoints and record of both


def test_the_seed_decides_and_the_number_of_workers_does_not(tmp_path, demo):
    jobs = [(0, 1, 1), (4, 2, 1)]
    for job in jobs:
        make_demo_data.make_clip(job, tmp_path / "same", 4)
        make_demo_data.make_clip(job, tmp_path / "other", 5)
    same, whole = digests(tmp_path / "same"), digests(demo)
    assert len(same) == 6
    assert same.items() <= whole.items()
    assert not set(same.values()) & set(digests(tmp_path / "other").values())


def test_other_settings_and_foreign_folders_are_refused(tmp_path, demo):
    assert_error(make(demo, "--groups", 2, "--clips", 1, "--seed", 5), str(demo), "seed = 4, now it is 5")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert_error(make(tmp_path / "mine"), str(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert_error(make(tmp_path / "mine" / "thesis.txt"), "thesis.txt")
