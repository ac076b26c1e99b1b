import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pose.keypoints import save_keypoints
from tests.helpers import ROOT, assert_error, call_main, run_script
from tests.pose_fixtures import BOTH, GREEN, RED, command, save_frames, save_network, tree

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def data(posed) -> Path:
    return posed


def test_killed_in_the_middle_and_started_again(data, tmp_path):
    generator = np.random.default_rng(0)
    for index in range(3):
        save_frames(tmp_path / f"frames/v_long_{index}", generator.integers(0, 256, (120, 3)))
    arguments = [str(word) for word in ("--frames", tmp_path / "frames", *command(data, "")[4:], "--workers", 1)]

    def start(out):
        return subprocess.Popen(
            [sys.executable, str(ROOT / "process_pose.py"), *arguments, "--out", str(out)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    undisturbed = start(tmp_path / "undisturbed")
    assert undisturbed.wait(60) == 0, undisturbed.stderr.read()
    out = tmp_path / "killed"
    process = start(out)
    deadline = time.monotonic() + 60
    while not half_written(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("long_*"))) < 3
    for left in out.glob(".tmp-*"):
        os.utime(left, (0, 0))  # so the next run removes it, as a day later
    process = start(out)
    assert process.wait(60) == 0, process.stderr.read()
    assert tree(out) == tree(tmp_path / "undisturbed")
    assert len(tree(out)) == 3 * 122


def half_written(out: Path) -> bool:
    return any(out.glob(".tmp-*/**/*.jpg"))


def test_sigterm_ends_the_run_with_a_hint_and_leaves_nothing_half_done(data, tmp_path):
    for name in ("a", "b", "c"):
        save_frames(tmp_path / f"frames/v_{name}", [BOTH] * 400)
    arguments = [str(word) for word in ("--frames", tmp_path / "frames", *command(data, tmp_path / "out")[2:])]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "process_pose.py"), *arguments, "--workers", "1"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not half_written(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.002)
    process.terminate()
    _, text = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "stopped; the same command resumes here" in text
    assert "Traceback" not in text
    assert sorted(tree(tmp_path / "out"))[0] == "a/frame000001.jpg" and len(tree(tmp_path / "out")) in (402, 804)


def test_sigterm_while_redrawing_leaves_folders_as_they_were_or_done(data, tmp_path):
    out = tmp_path / "poses"
    for name in "abcd":
        save_keypoints(
            out / name / "keypoints.npz", np.zeros((0, 18, 3), np.float32), np.zeros(0, np.int32), 600, (9, 9)
        )
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "process_pose.py"), "--out", str(out), "--from-keypoints", "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not half_written(out):
        assert process.poll() is None
        time.sleep(0.002)
    process.terminate()
    _, text = process.communicate(timeout=20)
    assert process.returncode == 143 and "Traceback" not in text
    assert sorted(path.name for path in out.iterdir()) == list("abcd")
    assert {len(list((out / name).iterdir())) for name in "abcd"} <= {1, 601}
    assert 1 in {len(list((out / name).iterdir())) for name in "abcd"}


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
        "process_pose.py", *command(data, tmp_path / "out")[2:], "--frames", frames, "--workers", 0, "--batch-size", 4
    )
    assert finished.returncode == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["failed.txt", "good", "z_last"]
    assert tree(tmp_path / "out/good") == tree(data / "poses/clip.v2")
    failed = (tmp_path / "out/failed.txt").read_text().splitlines()  # of which five are shown
    shown = [line for line in finished.stderr.splitlines() if line.startswith("failed: ")]
    assert shown == failed[:5] and "Traceback" not in finished.stderr
    for path in (
        "a_empty",
        "b_text/frame000007.jpg",
        "c_zero/frame000001.jpg",
        "d_cut/frame000003.jpg",
        "e_gap",
        "f_sizes/frame000011.jpg",
    ):
        assert sum(str(frames / path) in line for line in failed) == 1, finished.stderr
    assert len(failed) == 6
    assert [int(line.split()[-1]) for line in finished.stdout.splitlines()[:3]] == [2, 0, 6]
    # Mended, they are all that is left to do.
    shutil.copy(frames / "d_cut/frame000001.jpg", cut)
    again = call_main("process_pose", *command(data, tmp_path / "out")[2:], "--frames", frames, "--workers", 0)
    assert [int(line.split()[-1]) for line in again.stdout.splitlines()[:3]] == [1, 2, 5]


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
    assert_error(call_main(script, *good, "--frames", one), "clip.v2", "give the folder that holds them")
    assert_error(call_main(script, *good, "--out", data / "frames"), "folder of frames")
    assert_error(call_main(script, *good, "--out", data / "net.onnx"), "net.onnx")
    assert_error(call_main(script, *good, "--videos", tmp_path / "none.txt"), "none.txt")
    for option, value in (
        ("--shard", "3/3"),
        ("--every", "0"),
        ("--max-people", "x"),
        ("--input-size", "12"),
        ("--batch-size", "0"),
        ("--workers", "-1"),
    ):
        assert_error(call_main(script, *good, option, value), value)
    assert not out.exists()


def test_two_folders_of_one_video(data, tmp_path):
    for name in ("v_a", "a"):
        shutil.copytree(data / "frames/clip.v2", tmp_path / "frames" / name)
    finished = call_main("process_pose", "--frames", tmp_path / "frames", *command(data, tmp_path / "out")[2:])
    assert_error(finished, "frames/a and", "v_a")


def test_poses_of_other_settings_are_not_mixed(data, tmp_path):
    shutil.copytree(data / "poses", tmp_path / "poses")
    for more in (("--every", "2"), ("--max-people", "1")):
        finished = call_main("process_pose", *command(data, tmp_path / "poses"), *more)
        assert_error(finished, str(tmp_path / "poses"), "choose another folder")
    save_network(tmp_path / "net.onnx")
    finished = call_main("process_pose", *command(data, tmp_path / "poses"), "--pose-weights", tmp_path / "net.onnx")
    assert_error(finished, "weights")


def test_a_run_without_a_pose_binds_no_other(data, tmp_path):
    (tmp_path / "frames/v_a").mkdir(parents=True)
    (tmp_path / "frames/v_a/frame000001.jpg").write_bytes(b"")
    arguments = (*command(data, tmp_path / "out"), "--frames", tmp_path / "frames", "--workers", 0)
    assert call_main("process_pose", *arguments).returncode == 1
    save_frames(tmp_path / "frames/v_b", [RED])
    assert call_main("process_pose", *arguments, "--every", 2).returncode == 1  # one of two
    assert_error(call_main("process_pose", *arguments), "every = 2, now it is 1")


def test_a_full_disk_is_named_and_nothing_half_done_stays(data, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    finished = call_main("process_pose", *command(data, tmp_path / "out"), "--workers", 0)
    assert finished.returncode == 2
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Archery_g01_c01: No space left on device" in last
    assert not list((tmp_path / "out").iterdir())
