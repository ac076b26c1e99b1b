"""check_data.py on tiny data with one fault of each kind."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataloader.frame_index import looks_like_frames, looks_like_pose_flow
from pose.keypoints import FILE_NAME, load_keypoints, save_keypoints
from tests.helpers import assert_error, call_main, make_tiny, moving, train_script, write_video

COLUMNS = ["videos", "ok", "missing", "empty", "gaps", "broken", "short", "keypoints", "unmatched"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny data set without short videos: what has 8 frames is given 11."""
    root = make_tiny(tmp_path_factory.mktemp("check"))
    for folder in [*(root / "frames").glob("*_g01_*"), *(root / "pose_flow").glob("*_g01_*")]:
        for number in (9, 10, 11):
            shutil.copy(folder / "frame000001.jpg", folder / f"frame{number:06d}.jpg")
    return root


@pytest.fixture
def data(source, tmp_path):
    """A copy of its frames and pose images to damage."""
    for folder in ("frames", "pose_flow", "lists"):
        shutil.copytree(source / folder, tmp_path / "data" / folder)
    return tmp_path / "data"


def check(data, *arguments):
    """Run the script; returns the finished run and the table as {(what, list): {column: number}}."""
    places = ("--frames", data / "frames", "--pose-flow", data / "pose_flow", "--ucf-list", data / "lists")
    finished = call_main("check_data", *places, "--workers", 0, *arguments)
    found = re.findall(r"^(frames|pose flow|flow u|flow v) +(train|test|val) +(.*)$", finished.stdout, re.MULTILINE)
    assert finished.stdout.split("\n")[0].split() in ([], ["list", *COLUMNS])
    counts = {
        (what, name): dict(zip(COLUMNS, (int(cell.replace("-", "0")) for cell in cells.split()), strict=True))
        for what, name, cells in found
    }
    return finished, counts


def problems(counts):
    """What is not zero, `videos` and `ok` aside."""
    return {
        (what, name, column): count
        for (what, name), row in counts.items()
        for column, count in row.items()
        if count and column not in ("videos", "ok")
    }


def keypoints_file(folder, num_frames):
    folder.mkdir(parents=True, exist_ok=True)
    save_keypoints(folder / FILE_NAME, np.full((1, 18, 3), 0.5, np.float32), np.array([1]), num_frames, (36, 48))


def test_clean_data(data):
    keypoints_file(data / "pose_flow" / "TaiChi_g02_c01", 11)
    for arguments in ((), ("--full",), ("--workers", 2)):
        finished, counts = check(data, *arguments)
        assert finished.returncode == 0 and finished.stderr == "", finished.stderr
        assert not problems(counts) and len(counts) == 4
        for (_, name), row in counts.items():
            assert row["videos"] == row["ok"] == (12 if name == "train" else 6)
        images = sum(1 for folder in ("frames", "pose_flow") for path in (data / folder).rglob("*.jpg"))
        assert finished.stdout.splitlines()[-1].startswith(f"18 videos, {images} frames")
        assert "no problems" in finished.stdout


def test_each_fault_is_counted_in_its_column_and_named(data):
    frames, poses = data / "frames", data / "pose_flow"
    shutil.rmtree(frames / "v_Archery_g03_c01")  # missing
    for image in (frames / "v_Archery_g04_c01").iterdir():  # empty
        image.unlink()
    (frames / "v_Archery_g05_c01" / "frame000007.jpg").unlink()  # a gap
    (frames / "v_Archery_g06_c01" / "frame000002.jpg").write_bytes(b"")  # broken: seen without decoding
    (frames / "v_Archery_g06_c01" / "frame000003.jpg").write_bytes(b"")
    first = frames / "v_Diving_g03_c01" / "frame000001.jpg"
    first.write_bytes(first.read_bytes()[:200])  # broken: decoded
    (poses / "Diving_g04_c01" / "frame000017.jpg").unlink()  # unmatched
    for number in range(8, 12):  # short in both
        (frames / "v_TaiChi_g01_c01" / f"frame{number:06d}.jpg").unlink()
        (poses / "TaiChi_g01_c01" / f"frame{number:06d}.jpg").unlink()
    shutil.rmtree(poses / "TaiChi_g02_c01")  # missing
    (poses / "Diving_g01_c01" / FILE_NAME).write_bytes(b"PK broken")  # keypoints
    keypoints_file(poses / "Diving_g02_c01", 9)
    shutil.rmtree(poses / "Diving_g05_c01")
    (poses / "Diving_g05_c01").write_text("a file where a folder should be")  # no list of its images
    finished, counts = check(data, "--all")
    assert finished.returncode == 1 and finished.stderr == ""
    assert problems(counts) == {
        ("frames", "train", "missing"): 1,
        ("frames", "train", "empty"): 1,
        ("frames", "train", "gaps"): 1,
        ("frames", "train", "broken"): 2,
        ("frames", "test", "short"): 1,
        ("pose flow", "train", "gaps"): 1,
        ("pose flow", "train", "unmatched"): 1,
        ("pose flow", "test", "short"): 1,
        ("pose flow", "test", "missing"): 1,
        ("pose flow", "test", "keypoints"): 2,
    }
    assert counts["frames", "train"]["ok"] == 7 and counts["pose flow", "test"]["ok"] == 2
    out = finished.stdout
    for words in (
        "Archery_g03_c01: video 'Archery_g03_c01' has no folder",
        "frame000007.jpg is missing, yet later images exist; make its images again",
        "v_Archery_g06_c01/frame000002.jpg: the file is empty and 1 more",
        "v_Diving_g03_c01/frame000001.jpg: the JPEG is truncated",
        "Diving_g04_c01: 17 frames, 16 of pose flow",
        "images that are empty or cannot be decoded; remove their folders, then run extract_frames.py again",
        "TaiChi_g01_c01: 7 frames",
        "is of 9 frames, beside 11 images",
        "Diving_g05_c01: Not a directory",
        "11 videos have problems",
    ):
        assert words in out, f"{words!r} is not in\n{out}"


def test_full_finds_what_the_sample_does_not(data):
    path = data / "frames" / "v_TaiChi_g06_c01" / "frame000005.jpg"
    path.write_bytes(b"\xff\xd8 no more than that")
    assert check(data)[0].returncode == 0
    for workers in (0, 2):
        finished, counts = check(data, "--full", "--workers", workers)
        assert finished.returncode == 1
        assert problems(counts) == {("frames", "train", "broken"): 1} and str(path) in finished.stdout


def test_one_of_the_two(data):
    shutil.rmtree(data / "pose_flow")
    finished, counts = check(data, "--only", "frames")
    assert finished.returncode == 0 and set(counts) == {("frames", "train"), ("frames", "test")}
    assert_error(check(data)[0], str(data / "pose_flow"), "--pose-flow", "--only")


def test_swapped_folders_are_refused(data, tmp_path):
    """Pose flow is known by its keypoints, frames by the comment of extract_frames.py; images alone may be either."""
    swapped = ("--frames", data / "pose_flow", "--pose-flow", data / "frames")
    assert check(data, *swapped)[0].returncode == 0
    keypoints_file(data / "pose_flow" / "Diving_g04_c01", 17)
    assert_error(check(data, *swapped)[0], "--frames", str(data / "pose_flow"), "pose flow; give it with --pose-flow")
    assert check(data)[0].returncode == 0

    write_video(tmp_path / "videos" / "v_Archery_g01_c01.avi", moving(12, (48, 32)))
    assert call_main("extract_frames", tmp_path / "videos", tmp_path / "frames", "--workers", 0).returncode == 0
    assert looks_like_frames(tmp_path / "frames") and not looks_like_pose_flow(tmp_path / "frames")
    assert_error(
        check(data, "--only", "pose-flow", "--pose-flow", tmp_path / "frames")[0], "--pose-flow", "extract_frames.py"
    )
    for folder in ("a", "b"):
        keypoints_file(tmp_path / "nested" / "Class" / folder, 3)
    assert looks_like_pose_flow(tmp_path / "nested") and not looks_like_frames(tmp_path / "nested")
    assert not looks_like_pose_flow(tmp_path / "nowhere") and not looks_like_frames(data / "frames")


def test_validation_videos_are_looked_at_too(data):
    lists = data / "lists"
    train = (lists / "trainlist04.txt").read_text().splitlines()
    (lists / "trainlist04.txt").write_text("\n".join(train[:-2]) + "\n")
    (lists / "vallist04.txt").write_text("\n".join(train[-2:]) + "\n")
    shutil.rmtree(data / "frames" / Path(train[-1].split()[0]).stem)
    finished, counts = check(data, "--val-list", "vallist04.txt")
    assert problems(counts) == {("frames", "val", "missing"): 1}
    assert counts["frames", "train"]["videos"] == 10 and counts["frames", "val"]["videos"] == 2
    assert_error(check(data, "--val-list", "vallist05.txt")[0], "vallist05.txt", "--val-list")


def test_keypoints_in_the_place_of_images(data):
    for folder in (data / "pose_flow").iterdir():
        keypoints_file(folder, sum(1 for path in folder.glob("*.jpg")))
        for image in folder.glob("*.jpg"):
            image.unlink()
    finished, counts = check(data)
    assert finished.returncode == 0 and not problems(counts)
    (data / "pose_flow" / "Archery_g01_c01" / FILE_NAME).unlink()
    shutil.rmtree(data / "pose_flow" / "Archery_g02_c01")
    keypoints_file(data / "pose_flow" / "Archery_g03_c01", 99)
    assert problems(check(data)[1]) == {
        ("pose flow", "test", "empty"): 1,
        ("pose flow", "test", "missing"): 1,
        ("pose flow", "train", "unmatched"): 1,
    }


def test_videos_without_people_are_counted_as_training_does(source, data, tmp_path):
    shutil.copytree(source / "skeletons", data / "skeletons")
    for name, count in (("Diving_g01_c01", 0), ("TaiChi_g02_c01", 1), ("Archery_g02_c01", 3), ("TaiChi_g03_c01", 0)):
        folder = data / "skeletons" / name
        before = load_keypoints(folder / FILE_NAME)  # of g02: of 11 frames, so one is fewer than a tenth of them
        people = np.repeat(before.keypoints[:1], count, axis=0)
        save_keypoints(folder / FILE_NAME, people, np.arange(1, count + 1), before.num_frames, (40, 40))
    options = ("--pose-flow", data / "skeletons", "--only", "pose-flow")
    finished, _ = check(data, *options)
    counted = f"{data / 'skeletons'}: nobody in 3 of 18 videos (TaiChi_g03_c01, Diving_g01_c01, TaiChi_g02_c01)"
    assert counted in finished.stdout, finished.stdout
    trained = train_script("skeleton", data, tmp_path / "record", "--epochs", 1, inline=True)
    assert "nobody in 1 of 12 videos (TaiChi_g03_c01)" in trained.stderr
    assert "nobody in 2 of 6 videos (Diving_g01_c01, TaiChi_g02_c01)" in trained.stderr


def test_names_are_limited_unless_all_are_asked_for(data):
    for folder in (data / "frames").glob("*_g0[3456]_*"):
        shutil.rmtree(folder)
    short, full = check(data, "--only", "frames")[0].stdout, check(data, "--only", "frames", "--all")[0].stdout
    assert short.count("has no folder") == 5 and "and 7 more; --all" in short
    assert full.count("has no folder") == 12 and "--all" not in full


def test_broken_links_and_colours(data):
    folder = data / "frames" / "v_Archery_g01_c01"
    Image.open(folder / "frame000001.jpg").convert("L").save(folder / "frame000001.jpg")
    Image.open(folder / "frame000006.jpg").convert("CMYK").save(folder / "frame000006.jpg")
    assert check(data)[0].returncode == 0
    (folder / "frame000011.jpg").unlink()
    (folder / "frame000011.jpg").symlink_to("nowhere.jpg")
    finished, counts = check(data)
    assert problems(counts) == {("frames", "test", "broken"): 1} and "frame000011.jpg: No such file" in finished.stdout


def test_mistakes_end_in_one_line(data, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_error(check(data, "--frames", tmp_path / "nowhere")[0], "nowhere", "--frames")
    assert_error(check(data, "--frames", tmp_path / "empty")[0], "empty", "--frames")
    assert_error(check(data, "--split", "07")[0], "trainlist07.txt")
    assert_error(check(data, "--workers", "-1")[0], "--workers")
    assert_error(check(data, "--only", "poses")[0], "--only")


def test_flow(source, data):
    flow = shutil.copytree(source / "flow", data / "flow")
    for folder in flow.glob("[uv]/*_g01_*"):
        for number in (9, 10, 11):
            shutil.copy(folder / "frame000001.jpg", folder / f"frame{number:06d}.jpg")
    finished, counts = check(data, "--flow", flow)
    assert finished.returncode == 0 and not problems(counts) and len(counts) == 8
    (flow / "v" / "v_Archery_g03_c01" / "frame000014.jpg").unlink()
    shutil.rmtree(flow / "u" / "v_Archery_g04_c01")
    (flow / "u" / "v_TaiChi_g01_c01" / "frame000001.jpg").write_bytes(b"")
    finished, counts = check(data, "--flow", flow)
    assert finished.returncode == 1
    assert problems(counts) == {
        ("flow u", "train", "missing"): 1,
        ("flow u", "test", "broken"): 1,
        ("flow v", "train", "unmatched"): 1,
    }
    assert "14 frames, 13 of flow v" in finished.stdout
    assert len(check(data, "--flow", flow, "--only", "flow")[1]) == 4
    assert_error(check(data, "--only", "flow")[0], "--flow DIR")
    shutil.rmtree(flow / "v")
    assert_error(check(data, "--flow", flow)[0], "v: no such folder", "--flow")
