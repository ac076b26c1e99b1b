import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from files import FRAME_NAME, count_frames, in_shard
from pose.draw import draw_people
from pose.keypoints import load_keypoints, people_of_frame, save_keypoints
from pose.preview import choose_frames
from tests.conftest import ROOT, assert_error, call_main, run_script
from tests.pose_fixtures import MAPPING, SIZE, expected_person, save_frames, save_network, tree

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SCRIPT = "process_pose.py"
RED, GREEN, BOTH, NONE = (250, 0, 0), (0, 250, 0), (250, 250, 0), (0, 0, 0)
# Videos by the name of their folder of frames; the names are as wild as users' are.
VIDEOS = {
    "v_Archery_g01_c01": [RED, GREEN, BOTH, NONE, NONE, (200, 100, 0), (100, 220, 0)],
    "Archery_g01_c02": [NONE] * 3,
    "v_Übung 1.5 – a": [GREEN] * 5,
    "clip.v2": [BOTH],
    "v_v_twice": [RED] * 2,
}
NAMES = ["Archery_g01_c01", "Archery_g01_c02", "clip.v2", "v_twice", "Übung 1.5 – a"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with `frames`, `net.onnx`, and the uninterrupted run's `poses`."""
    root = tmp_path_factory.mktemp("data")
    for name, colors in VIDEOS.items():
        save_frames(root / "frames" / name, colors)
    save_network(root / "net.onnx", dynamic=False)
    finished = run_script(SCRIPT, *command(root, root / "poses"), "--workers", 2, "--preview", root / "sheet.png")
    assert finished.returncode == 0, finished.stderr
    (root / "output.txt").write_text(finished.stdout)
    return root


def command(root: Path, out: Path, frames: str = "frames") -> tuple:
    return ("--frames", root / frames, "--out", out, "--model", "onnx", "--pose-weights", root / "net.onnx",
            "--device", "cpu", *MAPPING)


def test_keypoints_and_images_of_every_video(data):
    assert sorted(path.name for path in (data / "poses").iterdir()) == sorted([*NAMES, "pose_settings.json"])
    for name in VIDEOS:
        folder = data / "poses" / name.removeprefix("v_")
        keypoints = load_keypoints(folder / "keypoints.npz")
        assert keypoints.num_frames == count_frames(folder) == len(VIDEOS[name])
        assert len(list(folder.iterdir())) == len(VIDEOS[name]) + 1
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
    assert choose_frames([163, 393], 12)[0] == (0, 21)
    assert choose_frames([5], 12) == [(0, n) for n in (1, 2, 3, 4, 5)]
    assert choose_frames([100] * 24, 12) == [(video, 50) for video in range(1, 24, 2)]
    for lengths in ([1, 1000], [3, 3, 3], [10], [7] * 13):
        chosen = choose_frames(lengths, 12)
        assert len(set(chosen)) == len(chosen) == min(12, sum(lengths))
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
        parts.append(set(tree(out)) - {"pose_settings.json"})
        call_main("process_pose", *command(data, tmp_path / "poses"), "--workers", 0, "--shard", shard)
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(wanted) - 1
    assert tree(tmp_path / "poses") == wanted
    whole = call_main("process_pose", *command(data, tmp_path / "poses"), "--workers", 0)
    assert [int(line.split()[-1]) for line in whole.stdout.splitlines()[:3]] == [0, 5, 0]
    assert whole.stdout.splitlines()[3:] == (data / "output.txt").read_text().splitlines()[3:]


def test_killed_in_the_middle_and_started_again(data, tmp_path):
    generator = np.random.default_rng(0)
    for index in range(4):
        save_frames(tmp_path / f"frames/v_long_{index}", generator.integers(0, 256, (150, 3)))
    arguments = [str(word) for word in ("--frames", tmp_path / "frames", *command(data, "")[4:], "--workers", 1)]

    def start(out):
        return subprocess.Popen(
            [sys.executable, str(ROOT / SCRIPT), *arguments, "--out", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )

    undisturbed = start(tmp_path / "undisturbed")
    assert undisturbed.wait(60) == 0, undisturbed.stderr.read()
    out = tmp_path / "killed"
    for half_drawn in (1, 3):  # the video, in order of their names, whose drawing is interrupted
        process = start(out)
        deadline = time.monotonic() + 60
        while not half_written(out) or finished_videos(out) < half_drawn - 1:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # the worker notices
        assert finished_videos(out) < 4
    process = start(out)
    assert process.wait(60) == 0, process.stderr.read()
    assert tree(out) == tree(tmp_path / "undisturbed")
    assert len(tree(out)) == 4 * 151 + 1


def half_written(out: Path) -> bool:
    return any(any(folder.glob("*.jpg")) for folder in out.glob(".tmp-*"))


def finished_videos(out: Path) -> int:
    return len(list(out.glob("long_*")))


def test_sigterm_ends_the_run_with_a_hint_and_leaves_nothing_half_done(data, tmp_path):
    save_frames(tmp_path / "frames/v_long", [BOTH] * 1200)
    arguments = [str(word) for word in ("--frames", tmp_path / "frames", *command(data, tmp_path / "out")[2:])]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / SCRIPT), *arguments, "--workers", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not half_written(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.002)
    process.terminate()
    _, text = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "stopped; the same command goes on from here" in text
    assert "Traceback" not in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pose_settings.json"]


# ---- broken input ----


def test_broken_videos_are_named_and_the_others_done(data, tmp_path):
    frames = tmp_path / "frames"
    shutil.copytree(data / "frames/clip.v2", frames / "good")
    (frames / "a_empty").mkdir()
    save_frames(frames / "b_text", [RED] * 20)
    (frames / "b_text/frame000007.jpg").write_text("no image")
    save_frames(frames / "c_zero", [RED])
    (frames / "c_zero/frame000001.jpg").write_bytes(b"")
    save_frames(frames / "d_cut", [RED] * 3)
    cut = frames / "d_cut/frame000003.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    save_frames(frames / "e_gap", [RED] * 3)
    (frames / "e_gap/frame000002.jpg").unlink()
    save_frames(frames / "f_sizes", [RED] * 12)
    Image.new("RGB", (20, 30)).save(frames / "f_sizes/frame000011.jpg")
    save_frames(frames / "z_last", [GREEN])
    finished = run_script(
        SCRIPT, *command(data, tmp_path / "out")[2:], "--frames", frames, "--workers", 0, "--batch-size", 4
    )
    assert finished.returncode == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good", "pose_settings.json", "z_last"]
    assert tree(tmp_path / "out/good") == tree(data / "poses/clip.v2")
    failed = [line for line in finished.stderr.splitlines() if line.startswith("failed: ")]
    assert "Traceback" not in finished.stderr
    for path in ("a_empty", "b_text/frame000007.jpg", "c_zero/frame000001.jpg", "d_cut/frame000003.jpg", "e_gap",
                 "f_sizes/frame000011.jpg"):
        assert sum(str(frames / path) in line for line in failed) == 1, finished.stderr
    assert len(failed) == 6
    assert [int(line.split()[-1]) for line in finished.stdout.splitlines()[:3]] == [2, 0, 6]
    # Mended, they are all that is left to do.
    shutil.copy(frames / "d_cut/frame000001.jpg", cut)
    again = call_main("process_pose", *command(data, tmp_path / "out")[2:], "--frames", frames, "--workers", 0)
    assert [int(line.split()[-1]) for line in again.stdout.splitlines()[:3]] == [1, 2, 5]


def test_grey_and_cmyk_frames(data, tmp_path):
    for mode in ("L", "CMYK"):
        (tmp_path / "frames" / mode).mkdir(parents=True)
        Image.new("RGB", (64, 48), (255, 255, 255)).convert(mode).save(tmp_path / "frames" / mode / "frame000001.jpg")
    finished = call_main("process_pose", "--frames", tmp_path / "frames", *command(data, tmp_path / "out")[2:])
    assert finished.returncode == 0, finished.stderr
    for mode in ("L", "CMYK"):
        assert len(load_keypoints(tmp_path / "out" / mode / "keypoints.npz").frame) == 2


def test_mistakes(data, tmp_path):
    out = tmp_path / "out"
    good = command(data, out)
    script = "process_pose"
    assert_error(call_main(script, "--out", out), "--frames")
    assert_error(call_main(script, *good[:4], "--model", "onnx"), "--pose-weights")
    assert_error(call_main(script, *good, "--pose-weights", tmp_path / "none.onnx"), "none.onnx: no such file")
    assert_error(call_main(script, *good, "--pose-weights", data / "output.txt"), "output.txt", "cannot load it")
    assert_error(call_main(script, *good, "--model", "openpose"), "net.onnx")
    assert_error(call_main(script, *good, "--frames", tmp_path / "nowhere"), "nowhere: no such folder")
    (tmp_path / "empty").mkdir()
    assert_error(call_main(script, *good, "--frames", tmp_path / "empty"), "empty: no folders of videos")
    one = data / "frames/clip.v2"
    assert_error(call_main(script, *good, "--frames", one), "clip.v2", "holds this video's folder")
    assert_error(call_main(script, *good, "--out", data / "frames"), "folder of frames")
    assert_error(call_main(script, *good, "--out", data / "net.onnx"), "net.onnx")
    assert_error(call_main(script, *good, "--preview", "sheet.jpg"), "sheet.jpg", ".png")
    assert_error(call_main(script, *good, "--redraw"), "--from-keypoints")
    assert_error(call_main(script, *good, "--videos", tmp_path / "none.txt"), "none.txt")
    for option, value in (("--shard", "3/3"), ("--every", "0"), ("--max-people", "x"), ("--input-size", "12"),
                          ("--onnx-mean", "1,2"), ("--batch-size", "0"), ("--workers", "-1")):
        assert_error(call_main(script, *good, option, value), value)
    assert_error(call_main(script, *good, "--onnx-std", "0"), "std of 0")
    assert not out.exists()


def test_two_folders_of_one_video(data, tmp_path):
    for name in ("v_a", "a"):
        shutil.copytree(data / "frames/clip.v2", tmp_path / "frames" / name)
    finished = call_main("process_pose", "--frames", tmp_path / "frames", *command(data, tmp_path / "out")[2:])
    assert_error(finished, "frames/a and", "v_a")


def test_poses_of_other_settings_are_not_mixed(data, tmp_path):
    shutil.copytree(data / "poses", tmp_path / "poses")
    for more in (("--every", "2"), ("--max-people", "1"), ("--onnx-channels", "bgr")):
        finished = call_main("process_pose", *command(data, tmp_path / "poses"), *more)
        assert_error(finished, str(tmp_path / "poses"), "choose another --out")
    save_network(tmp_path / "net.onnx")
    finished = call_main("process_pose", *command(data, tmp_path / "poses"), "--pose-weights", tmp_path / "net.onnx")
    assert_error(finished, "weights")
    (tmp_path / "poses/pose_settings.json").write_text("{")
    assert_error(call_main("process_pose", *command(data, tmp_path / "poses")), "pose_settings.json")


def test_a_full_disk_is_named_and_nothing_half_done_stays(data, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    finished = call_main("process_pose", *command(data, tmp_path / "out"), "--workers", 0)
    assert finished.returncode == 2
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "frame000001.jpg: No space left on device" in last
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pose_settings.json"]


# ---- which videos, which frames, which people ----


def test_list_of_videos_and_nested_folders(data, tmp_path):
    for folder in ("Archery/v_a_g01_c01", "Diving/a_g01_c01", "Diving/v_b_g01_c01", "v_c_g01_c01", "d 1"):
        save_frames(tmp_path / "frames" / folder, [RED])
    listed = tmp_path / "list.txt"
    listed.write_text(
        "Diving/v_a_g01_c01.avi 2\r\nArchery/v_a_g01_c01.avi 1\n\nTaiChi/v_c_g01_c01.avi\n"
        "TaiChi/v_missing_g01_c01.avi 3\nd 1\n", encoding="utf-8",
    )
    arguments = ("--frames", tmp_path / "frames", *command(data, tmp_path / "out")[2:], "--workers", 0)
    finished = call_main("process_pose", *arguments, "--videos", listed)
    assert finished.returncode == 1
    [failed] = [line for line in finished.stderr.splitlines() if line.startswith("failed")]
    assert "v_missing_g01_c01" in failed and str(listed) in failed
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
        shutil.copy(data / "poses" / name / "keypoints.npz", out / name)
    (out / "clip.v2/note.txt").write_text("mine")
    finished = run_script(SCRIPT, "--out", out, "--from-keypoints", "--workers", 2)
    assert finished.returncode == 0, finished.stderr
    drawn = tree(out)
    assert drawn.pop("clip.v2/note.txt") == b"mine"
    wanted = tree(data / "poses")
    del wanted["pose_settings.json"]
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


def test_settings_say_what_the_people_depend_on(data):
    settings = json.loads((data / "poses/pose_settings.json").read_text())
    assert settings["model"] == "onnx" and settings["input_size"] == list(SIZE) and settings["every"] == 1


def test_real_videos(shared, tmp_path):
    import av

    frames = tmp_path / "frames/v_exercise"
    frames.mkdir(parents=True)
    with av.open(str(shared / "videos/exercise.avi")) as video:
        for number, decoded in zip(range(1, 11), video.decode(video=0), strict=False):
            decoded.to_image().save(frames / FRAME_NAME.format(number), quality=95)
    finished = call_main(
        "process_pose", "--frames", tmp_path / "frames", "--out", tmp_path / "out", "--model", "onnx",
        "--pose-weights", shared / "pose/openpose_mobilenet_v2_small.onnx", "--workers", 0,
    )
    assert finished.returncode == 0, finished.stderr
    keypoints = load_keypoints(tmp_path / "out/exercise/keypoints.npz")
    assert keypoints.frame_size == (288, 384)
    counts = [len(people_of_frame(keypoints, number)) for number in range(1, 11)]
    assert all(3 <= count <= 5 for count in counts), counts
