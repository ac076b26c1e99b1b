"""People followed, cleaned and redrawn; the frames beside their poses."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.pose import standing_people
from common.records import RECORD, root_record
from pose.keypoints import FILE_NAME, load_keypoints, make_keypoints, people_of_frame, save_keypoints
from pose.people import (
    fill_gaps,
    follow_people,
    main_people,
    main_tracks,
    one_euro,
    person_scores,
    select_people,
    smooth_people,
)
from pose.pipeline import RAW_NAME
from tests.helpers import assert_error, call_main, write_images

SIZE = (256, 341)


def crowd(frames=40, seed=0, jitter=0.004):
    """A large person walking right and a small one walking left, with the true track of each, in shuffled order."""
    rng, people, frame, true = np.random.default_rng(seed), [], [], []
    base = standing_people(1)[0]
    for number in range(1, frames + 1):
        large, small = base.copy(), base.copy()
        large[:, 0] += 0.005 * number - 0.2
        small[:, :2] = (small[:, :2] - 0.5) * 0.3 + (0.8 - 0.004 * number, 0.3)
        for track in rng.permutation(2):
            person = (large, small)[track].copy()
            person[:, :2] += rng.normal(0, jitter, (18, 2))
            people.append(person)
            frame.append(number)
            true.append(track)
    return make_keypoints(np.array(people, np.float32), np.array(frame, np.int32), frames, SIZE), np.array(true)


def without(keypoints, lost):
    kept = ~lost
    return make_keypoints(keypoints.keypoints[kept], keypoints.frame[kept], keypoints.num_frames, SIZE)


def counts(keypoints):
    return np.bincount(keypoints.frame, minlength=keypoints.num_frames + 1)[1:]


def test_people_are_followed_through_gaps_and_the_large_one_is_the_main_one():
    keypoints, true = crowd()
    lost = (true == 0) & np.isin(keypoints.frame, (10, 11, 12, 13, 14))
    tracks = follow_people(without(keypoints, lost))
    first = tracks[true[~lost] == 0]
    assert len(set(first)) == 1 and len(set(tracks)) == 2 and tracks.dtype == np.int32
    assert main_tracks(without(keypoints, lost), tracks)[0] == first[0]
    lost |= (true == 0) & (keypoints.frame == 15)  # one frame more than a track outlives
    assert len(set(follow_people(without(keypoints, lost)))) == 3
    kept = main_people(keypoints, follow_people(keypoints), 1)
    assert np.array_equal(kept, np.flatnonzero(true == 0))


def test_smoothing_fills_gaps_drops_brief_finds_and_calms_jitter():
    still, true = crowd(jitter=0)
    noisy, same = crowd(jitter=0.004)
    assert np.array_equal(true, same)
    ghost = np.array(standing_people(1) * (1, 0.2, 1), np.float32)
    lost = (true == 1) & np.isin(noisy.frame, (20, 21))
    people = np.concatenate([noisy.keypoints[~lost], ghost])
    broken = make_keypoints(people, np.append(noisy.frame[~lost], 30).astype(np.int32), 40, SIZE)
    assert sorted(set(counts(broken))) == [1, 2, 3]
    smooth, tracks = smooth_people(broken, follow_people(broken), 25)
    again = follow_people(smooth)  # numbered in the order of the frames
    assert np.array_equal(tracks == tracks[0], again == again[0])
    assert set(counts(smooth)) == {2}
    large = np.array([people_of_frame(smooth, number)[-1] for number in range(1, 41)])  # drawn last
    error = lambda path: np.abs(path - still.keypoints[true == 0])[10:, :, :2].mean()  # noqa: E731
    assert error(large) < error(noisy.keypoints[true == 0])  # though it lags behind a walk
    accelerations = [np.abs(np.diff(path[..., :2], 2, axis=0)).mean() for path in (large, noisy.keypoints[true == 0])]
    assert accelerations[0] < 0.6 * accelerations[1]


def test_one_euro_is_causal_and_keeps_what_stands_still():
    path = np.random.default_rng(0).random((30, 18, 3)).astype(np.float32)
    whole, part = one_euro(path, 25, SIZE), one_euro(path[:20], 25, SIZE)
    assert np.array_equal(whole[:20], part) and np.array_equal(whole[..., 2], path[..., 2])
    still = np.repeat(path[:1], 10, axis=0)
    assert np.array_equal(one_euro(still, 25, SIZE), still)


def test_a_part_moves_straight_through_a_short_gap_only():
    path = np.ones((20, 18, 3), np.float32)
    path[:, :, 0] = np.linspace(0, 1, 20)[:, None]
    holes = path.copy()
    holes[3:8, 4] = 0
    holes[3:9, 5] = 0
    filled = fill_gaps(holes)
    assert np.allclose(filled[:, 4], path[:, 4], atol=1e-6) and not filled[3:9, 5].any()


@pytest.fixture
def folders(tmp_path):
    keypoints, _ = crowd()
    for name in ("a", "b"):
        write_images(tmp_path / "frames" / name, 40, 0, (60, 45), 0)
        (tmp_path / "poses" / name).mkdir(parents=True)
        save_keypoints(tmp_path / "poses" / name / FILE_NAME, *vars(keypoints).values())
    return SimpleNamespace(root=tmp_path, keypoints=keypoints)


def run_redraw(folders, *options):
    return call_main("process_pose", "--out", folders.root / "poses", "--from-keypoints", "--workers", 0, *options)


def redraw(folders, *options):
    run = run_redraw(folders, *options)
    assert run.returncode == 0, run.stderr
    return {path.name: path.read_bytes() for path in (folders.root / "poses/a").iterdir()}


def test_cleaning_kept_keypoints_twice_is_cleaning_them_once(folders):
    plain = redraw(folders)
    once = redraw(folders, "--smooth", "--max-people", 1)
    assert once != plain and once[RAW_NAME] == plain[FILE_NAME]
    assert counts(load_keypoints(folders.root / "poses/a" / FILE_NAME)).tolist() == [1] * 40
    assert root_record(folders.root / "poses")["people"] == {"min_score": None, "max_people": 1, "smooth": 25}
    assert redraw(folders, "--smooth", "--max-people", 1) == once
    again = redraw(folders, "--min-score", 0.01)  # from the raw people again
    assert again | {RECORD: b""} == plain | {RAW_NAME: plain[FILE_NAME], RECORD: b""}


@pytest.mark.parametrize("fault", ["damaged", "full"])
def test_a_preview_that_fails_leaves_the_old_one_and_all_poses(folders, monkeypatch, fault):
    preview, frame = folders.root / "preview.png", folders.root / "frames/a/frame000020.jpg"
    frames = ("--frames", folders.root / "frames", "--preview", preview)
    redraw(folders, *frames)
    before = preview.read_bytes()
    assert Image.open(preview).size[0] > 600
    if fault == "damaged":
        for path in frame.parent.iterdir():
            path.write_bytes(frame.read_bytes()[:300])
        reason = ".jpg: not an image that can be read"
    else:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("common.atomic.os.fsync", full)
        reason = f"{preview}: No space left on device"
    finished = run_redraw(folders, *frames)
    assert finished.returncode == 2 and finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1 and reason in finished.stderr, finished.stderr
    assert "skipped (finished)         2" in finished.stdout
    assert preview.read_bytes() == before
    assert sorted(path.name for path in folders.root.iterdir()) == ["frames", "poses", "preview.png"]


def test_the_real_network_with_cleaning(shared, tmp_path):
    """Cleaned people are those that cleaning the raw ones by hand leaves."""
    frames = tmp_path / "frames"
    video = shared / "videos/exercise.avi"
    assert call_main("extract_frames", video, frames, "--every", 3, "--workers", 0).returncode == 0
    for path in sorted((frames / "exercise").glob("*.jpg"))[20:]:
        path.unlink()
    network = ("--model", "onnx", "--pose-weights", shared / "pose/openpose_mobilenet_v2_small.onnx")
    network += ("--device", "cpu", "--workers", 0)
    options = ("--min-score", 0.35, "--max-people", 2, "--smooth")
    run = ("process_pose", "--images", "--frames", frames, "--out", tmp_path / "out", *network, *options)
    finished = call_main(*run)
    assert finished.returncode == 0, finished.stderr
    raw, cleaned = (load_keypoints(tmp_path / "out/exercise" / name) for name in (RAW_NAME, FILE_NAME))
    assert raw.num_frames == cleaned.num_frames == 20 and counts(raw).max() > 2 == counts(cleaned).max()
    rate = 10 / 3
    strong = select_people(raw, person_scores(raw.keypoints) >= 0.35)
    smooth, tracks = smooth_people(strong, follow_people(strong), rate)
    assert np.array_equal(smooth.keypoints[main_people(smooth, tracks, 2)], cleaned.keypoints)
    assert root_record(tmp_path / "out")["people"]["smooth"] == pytest.approx(rate)
    assert "done                       0" in call_main(*run).stdout
    assert_error(call_main(*run[:-1]), "smooth = 3.33", "now it is None")
