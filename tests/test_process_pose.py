import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.contact_sheet import choose_frames
from common.frames import FRAME_NAME, count_frames
from common.parallel import in_shard
from pose.draw import draw_people
from pose.keypoints import load_keypoints, people_of_frame, save_keypoints
from tests.helpers import assert_error, call_main, run_script
from tests.pose_fixtures import BOTH, GREEN, NAMES, NONE, RED, VIDEOS, command, expected_person, save_frames, tree

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def data(posed) -> Path:
    return posed


def test_keypoints_and_images_of_every_video(data):
    assert sorted(path.name for path in (data / "poses").iterdir()) == sorted(NAMES)
    for name in VIDEOS:
        folder = data / "poses" / name.removeprefix("v_")
        keypoints = load_keypoints(folder / "keypoints.npz")
        assert keypoints.num_frames == count_frames(folder) == len(VIDEOS[name])
        assert len(list(folder.iterdir())) == len(VIDEOS[name]) + 2
        assert keypoints.frame_size == (48, 64)
        for number, (red, green, _) in enumerate(VIDEOS[name], 1):
            people = people_of_frame(keypoints, number)
            assert len(people) == (red > 50) + (green > 50), (name, number)
            image = np.asarray(Image.open(folder / FRAME_NAME.format(number))).astype(int)
            assert image.shape == (224, 224, 3)
            assert np.abs(image - draw_people(people, (48, 64))).mean() < 2
            if not len(people):
                assert (image == 0).all()
            for person in people:
                column = 12 if person[0, 0] > 0.5 else 0
                assert np.abs(person[:, :2] - expected_person(column)).max() < 0.04


def test_closing_table(data):
    numbers = [int(line.split("  ")[-1].split()[0]) for line in (data / "output.txt").read_text().splitlines()[:5]]
    frames = [color for colors in VIDEOS.values() for color in colors]
    assert numbers == [5, 0, 0, len(frames), sum(color == NONE for color in frames)]
    people = sum((red > 50) + (green > 50) for red, green, _ in frames)
    assert f"people per frame, mean    {people / len(frames):9.2f}" in (data / "output.txt").read_text()


def test_contact_sheet(data):
    sheet = np.asarray(Image.open(data / "sheet.png").convert("RGB")).astype(int)
    # Frames of pure red and pure green were among those chosen, and so were coloured limbs on black.
    assert (np.abs(sheet - (250, 0, 0)).max(axis=2) < 9).sum() > 5000
    assert (np.abs(sheet - (0, 250, 0)).max(axis=2) < 9).sum() > 5000
    assert (sheet.max(axis=2) == 0).sum() > 20000


def test_frames_of_the_contact_sheet():
    assert choose_frames([5], 12) == [(0, n) for n in (1, 2, 3, 4, 5)]
    assert choose_frames([100] * 24, 12) == [(video, 51) for video in range(1, 24, 2)]
    for lengths in ([1, 1000], [3, 3, 3], [10], [7] * 13):
        chosen = choose_frames(lengths, 12)
        assert len(set(chosen)) == len(chosen) and min(6, sum(lengths)) <= len(chosen) <= 12
        assert all(1 <= number <= lengths[video] for video, number in chosen)
        assert len({video for video, _ in chosen}) == min(12, len(lengths))


def test_a_second_run_skips_what_is_finished(data, tmp_path):
    shutil.copytree(data / "poses", tmp_path / "poses")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "poses").rglob("*")}
    (tmp_path / "poses/clip.v2/frame000001.jpg").unlink()
    (tmp_path / "poses/v_twice/keypoints.npz").write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "poses/Archery_g01_c02")
    finished = call_main("process_pose", *command(data, tmp_path / "poses"), "--workers", 0)
    assert finished.returncode == 0, finished.stderr
    assert [int(line.split()[-1]) for line in finished.stdout.splitlines()[:3]] == [3, 2, 0]
    assert finished.stdout.splitlines()[3:] == (data / "output.txt").read_text().splitlines()[3:]
    assert tree(tmp_path / "poses") == tree(data / "poses")
    kept = tmp_path / "poses/Archery_g01_c01"
    assert all(path.stat().st_mtime_ns == before[path] for path in kept.iterdir())


def test_batch_size_and_workers_change_nothing(data, tmp_path):
    finished = call_main("process_pose", *command(data, tmp_path / "poses"), "--workers", 0, "--batch-size", 3)
    assert finished.returncode == 0, finished.stderr
    assert tree(tmp_path / "poses") == tree(data / "poses")


def test_shards_together_equal_one_run(data, tmp_path):
    wanted = tree(data / "poses")
    parts = []
    for shard in ("2/3", "0/3", "1/3"):
        out = tmp_path / shard.replace("/", "of")
        assert call_main("process_pose", *command(data, out), "--workers", 0, "--shard", shard).returncode == 0
        parts.append(set(tree(out)))
        call_main("process_pose", *command(data, tmp_path / "poses"), "--workers", 0, "--shard", shard)
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(wanted)
    assert tree(tmp_path / "poses") == wanted
    whole = call_main("process_pose", *command(data, tmp_path / "poses"), "--workers", 0)
    assert [int(line.split()[-1]) for line in whole.stdout.splitlines()[:3]] == [0, 5, 0]
    assert whole.stdout.splitlines()[3:] == (data / "output.txt").read_text().splitlines()[3:]


# ---- which videos, which frames, which people ----


def test_list_of_videos_and_nested_folders(data, tmp_path):
    for folder in ("Archery/v_a_g01_c01", "Diving/a_g01_c01", "Diving/v_b_g01_c01", "v_c_g01_c01", "d 1"):
        save_frames(tmp_path / "frames" / folder, [RED])
    listed = tmp_path / "list.txt"
    listed.write_text(
        "Diving/v_a_g01_c01.avi 2\r\nArchery/v_a_g01_c01.avi 1\n\nTaiChi/v_c_g01_c01.avi\n"
        "TaiChi/v_missing_g01_c01.avi 3\nd 1\n",
        encoding="utf-8",
    )
    arguments = ("--frames", tmp_path / "frames", *command(data, tmp_path / "out")[2:], "--workers", 0)
    finished = call_main("process_pose", *arguments, "--videos", listed)
    assert finished.returncode == 1
    [failed] = [line for line in finished.stderr.splitlines() if line.startswith("failed")]
    assert "TaiChi/v_missing_g01_c01.avi is listed" in failed
    folders = {str(path.parent.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("keypoints.npz")}
    assert folders == {"Archery/a_g01_c01", "Diving/a_g01_c01", "c_g01_c01", "d 1"}
    assert call_main("process_pose", *arguments).returncode == 0
    assert (tmp_path / "out/Diving/b_g01_c01/keypoints.npz").is_file()


def test_every_nth_frame_and_most_people(data, tmp_path):
    save_frames(tmp_path / "frames/v_a", [BOTH, NONE, NONE, RED, NONE, GREEN, (150, 250, 0)])
    arguments = ("--frames", tmp_path / "frames", *command(data, "")[4:], "--workers", 0)
    assert call_main("process_pose", *arguments, "--out", tmp_path / "a", "--every", 4).returncode == 0
    keypoints = load_keypoints(tmp_path / "a/a/keypoints.npz")
    # Estimated are 1 (both), 5 (nobody) and 7 (both); who is in one of two frames stays for half of the time.
    assert [len(people_of_frame(keypoints, number)) for number in range(1, 8)] == [2, 2, 0, 0, 0, 2, 2]
    assert count_frames(tmp_path / "a/a") == 7
    assert call_main("process_pose", *arguments, "--out", tmp_path / "b", "--max-people", 1).returncode == 0
    keypoints = load_keypoints(tmp_path / "b/a/keypoints.npz")
    assert [len(people_of_frame(keypoints, number)) for number in range(1, 8)] == [1, 0, 0, 1, 0, 1, 1]
    assert people_of_frame(keypoints, 7)[0, 0, 0] > 0.5  # the one on the right has the higher score


# ---- drawing from keypoints ----


def test_from_keypoints_draws_the_same_images(data, tmp_path):
    out = tmp_path / "poses"
    for name in NAMES:
        (out / name).mkdir(parents=True)
        for file in ("keypoints.npz", "made.json"):
            shutil.copy(data / "poses" / name / file, out / name)
    (out / "clip.v2/note.txt").write_text("mine")
    finished = run_script("process_pose.py", "--out", out, "--from-keypoints", "--workers", 2)
    assert finished.returncode == 0, finished.stderr
    drawn = tree(out)
    assert drawn.pop("clip.v2/note.txt") == b"mine"
    wanted = tree(data / "poses")
    assert drawn == wanted
    assert finished.stdout.splitlines()[3:] == (data / "output.txt").read_text().splitlines()[3:]

    # Finished folders are left alone, unless told otherwise.
    image = out / "clip.v2/frame000001.jpg"
    image.write_bytes(b"old")
    assert "skipped (finished)         5" in call_main("process_pose", "--out", out, "--from-keypoints").stdout
    assert image.read_bytes() == b"old"
    (out / "v_twice/frame000002.jpg").unlink()
    assert call_main("process_pose", "--out", out, "--from-keypoints").stdout.split("\n")[0].endswith(" 1")
    assert image.read_bytes() == b"old"
    shards = [
        call_main("process_pose", "--out", out, "--from-keypoints", "--redraw", "--workers", 0, "--shard", f"{i}/2")
        for i in range(2)
    ]
    assert all(shard.returncode == 0 for shard in shards)
    assert tree(out) == wanted | {"clip.v2/note.txt": b"mine"}
    assert {in_shard(name, "0/2") for name in NAMES} == {True, False}


def test_from_keypoints_with_broken_and_missing_files(data, tmp_path):
    out = tmp_path / "poses"
    save_keypoints(out / "good/keypoints.npz", np.zeros((0, 18, 3), np.float32), np.zeros(0, np.int32), 4, (48, 64))
    (out / "broken").mkdir()
    (out / "broken/keypoints.npz").write_bytes(b"PK\x03\x04")
    (out / "none").mkdir()
    finished = call_main("process_pose", "--out", out, "--from-keypoints", "--workers", 0)
    assert finished.returncode == 1
    failed = [line for line in finished.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert "broken/keypoints.npz" in failed[0] and "none/keypoints.npz" in failed[1]
    assert count_frames(out / "good") == 4
    assert "frames with no person             4 (100.0 %)" in finished.stdout
    assert_error(call_main("process_pose", "--out", tmp_path / "nowhere", "--from-keypoints"), "nowhere")


def test_killed_while_redrawing(data, tmp_path):
    shutil.copytree(data / "poses", tmp_path / "poses")
    # What a process leaves that is killed between the two renames: the old folder under a hidden name.
    (tmp_path / "poses/clip.v2").rename(tmp_path / "poses/.old-clip.v2")
    (tmp_path / "poses/Class").mkdir()
    (tmp_path / "poses/v_twice").rename(tmp_path / "poses/Class/.old-v_twice")
    finished = call_main("process_pose", "--out", tmp_path / "poses", "--from-keypoints")
    assert "skipped (finished)         5" in finished.stdout
    assert (tmp_path / "poses/clip.v2/frame000001.jpg").is_file()
    assert (tmp_path / "poses/Class/v_twice/frame000001.jpg").is_file()


def test_a_pose_folder_goes_on_with_the_model_that_made_it(data):
    arguments = [str(argument) for argument in command(data, data / "poses")]
    place = arguments.index("--model")
    del arguments[place : place + 2]  # another one is the default elsewhere
    finished = call_main("process_pose", *arguments)
    assert finished.returncode == 0 and "skipped (finished)         5" in finished.stdout, finished.stderr
    # Another one is refused before its weights are looked for.
    place = arguments.index("--pose-weights")
    del arguments[place : place + 2]
    assert_error(
        call_main("process_pose", *arguments, "--model", "rtmpose"), "made with model = onnx, now it is rtmpose"
    )
