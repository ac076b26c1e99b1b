import errno
import io
import itertools
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import unicodedata
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.cli import UserError, shard
from common.frames import find_frame_folders, list_frames
from common.parallel import in_shard
from common.records import RECORD, FrameSettings, read_record, root_record, write_record
from common.video import encode_jpeg, frames_of, resize_short_side
from dataloader.names import find_videos
from extract_frames import main
from tests.helpers import ROOT, assert_error, call_main, write_video


def picture(index, width=64, height=48):
    """A smooth colour picture whose brightness tells the index."""
    y, x = np.mgrid[:height, :width]
    red, green = 40 + 120 * x // width, 200 - 120 * y // height
    return np.stack([red, green, np.full_like(red, 20 + 6 * index)], 2).astype(np.uint8)


def make_video(path, codec="mpeg4", pictures=None, pix_fmt=None, times=None, **options):
    """Write `pictures`, 12 by default."""
    pictures = [picture(i) for i in range(12)] if pictures is None else pictures
    options |= {"pix_fmt": pix_fmt} if pix_fmt else {}
    return write_video(path, pictures, codec, 25, times, **options)


def lossless(path, pictures, **options):
    return make_video(path, "png", pictures, **options)


def make_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def overwrite(path, start, length):
    """Replace `length` bytes from `start` (a share of the file) by noise."""
    data = bytearray(path.read_bytes())
    offset = int(start * len(data))
    data[offset : offset + length] = np.random.default_rng(0).bytes(length)
    path.write_bytes(data)


def tree(root):
    """Content of every file below `root`, hidden ones included, by relative path; folders as None."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(root).rglob("*"))
    }


def extract(*args, workers=0):
    return main([*map(str, args), "--workers", str(workers)])


def read(path):
    return np.asarray(Image.open(path)).astype(int)


# ---- decoding ----


def test_frames_are_the_encoded_pictures(tmp_path):
    pictures = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(5)]
    path = lossless(tmp_path / "a.mov", pictures)
    for threads in (1, 3):
        decoded = list(frames_of(path, threads=threads))
        assert len(decoded) == 5
        for ours, theirs in zip(decoded, pictures, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert [
        int(np.abs(a.astype(int) - pictures[i]).max())
        for a, i in zip(frames_of(path, FrameSettings(2, short_side=None)), (0, 2, 4), strict=True)
    ] == [0, 0, 0]


FORMATS = ("avi mpeg4 yuv420p", "mp4 libx264 yuv420p", "mkv libx264 yuv444p", "webm libvpx-vp9 yuv420p", "gif gif rgb8")
FORMATS += ("ts libx264 yuv420p", "MOV mjpeg yuvj422p", "mkv ffv1 gray", "mkv ffv1 yuv420p10le")


@pytest.mark.parametrize("form", FORMATS)
def test_containers_and_codecs(tmp_path, form):
    ending, codec, pix_fmt = form.split()
    name = f"a.{ending}"
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    make_video(tmp_path / "v" / name, codec, pix_fmt=pix_fmt)
    assert extract(tmp_path / "v", tmp_path / "f", "--short-side", 96) == 0
    frames = list_frames(tmp_path / "f/a")
    assert len(frames) == 12
    for i, path in enumerate(frames):
        image = Image.open(path)
        assert image.size == (128, 96) and image.mode == "RGB"
        blue = read(path)[:, :, 2].mean()
        if pix_fmt == "gray":
            continue
        assert abs(blue - (20 + 6 * i)) < (30 if codec == "gif" else 4), i  # GIF has 4 levels of blue
    if pix_fmt == "gray":
        assert np.ptp(read(frames[0]), axis=2).max() <= 4


def test_each_frame_of_an_uneven_video_comes_once(tmp_path):
    times = [0, 10, 20, 500, 510, 3000, 3001, 3002, 9000, 9040]
    pictures = [picture(2 * i) for i in range(10)]
    decoded = list(frames_of(make_video(tmp_path / "a.mkv", "ffv1", pictures, "bgr0", times)))
    assert [frame[0, 0, 2] for frame in decoded] == [20 + 12 * i for i in range(10)]


def set_display_matrix(path, a, b, c, d):
    """Write the matrix into the track header of a QuickTime file, as a camera does."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    numbers = struct.unpack(">9i", data[start : start + 36])
    assert numbers == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "matrix", [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]
)
def test_rotation_and_mirroring_are_applied(tmp_path, matrix):
    stored = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = lossless(tmp_path / "a.mov", [stored] * 2)
    set_display_matrix(path, *matrix)
    a, b, c, d = matrix
    expected = np.zeros((60, 40, 3) if b else (40, 60, 3), np.uint8)
    for y, x in np.ndindex(40, 60):  # where the file wants each point, counted from the other end if negative
        right, down = a * x + c * y, b * x + d * y
        expected[down - (b + d < 0), right - (a + c < 0)] = stored[y, x]
    if matrix == (0, 1, -1, 0):  # a telephone held upright
        np.testing.assert_array_equal(expected, np.rot90(stored, -1))
    for frame in frames_of(path):
        assert frame.flags.c_contiguous
        np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("aspect, size", [(Fraction(2, 1), (128, 48)), (Fraction(1, 2), (64, 96))])
def test_pixels_become_square(tmp_path, aspect, size):
    path = make_video(tmp_path / "a.mp4", "mpeg4", sample_aspect_ratio=aspect)
    frame = next(frames_of(path))
    assert frame.shape[1::-1] == size
    assert np.abs(frame.mean((0, 1)) - picture(0).mean((0, 1))).max() < 4


def test_short_side():
    sizes = {(320, 240): (341, 256), (240, 320): (256, 341), (1920, 1080): (455, 256), (256, 300): (256, 300)}
    for (width, height), expected in (sizes | {(171, 128): (342, 256), (7, 5): (358, 256)}).items():
        resized = resize_short_side(np.full((height, width, 3), 77, np.uint8), 256)
        assert resized.shape[1::-1] == expected and (resized == 77).all()


def test_files_are_what_programs_decode(tmp_path):
    path = make_video(tmp_path / "v/a.avi")
    extract(tmp_path / "v", tmp_path / "f", "--quality", 90, "--every", 5, "--short-side", 60)
    kept = list(frames_of(path))[::5]
    files = list_frames(tmp_path / "f/a")
    assert len(files) == len(kept) == 3
    for file, rgb in zip(files, kept, strict=True):
        expected = Image.open(io.BytesIO(encode_jpeg(resize_short_side(rgb, 60), 90)))
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(expected))


def test_a_real_video(shared, tmp_path):
    assert extract(shared / "videos/v_ApplyEyeMakeup_g01_c01.avi", tmp_path) == 0
    paths = list_frames(tmp_path / "v_ApplyEyeMakeup_g01_c01")
    assert len(paths) in (163, 164) and {Image.open(path).size for path in paths[::50]} == {(341, 256)}


# ---- frames a second ----


def chosen(path, fps):
    """Indices of the pictures, as `picture` shows them, that are made of a video of `lossless`."""
    pictures = frames_of(path, FrameSettings(fps=fps, short_side=None))
    return [round((int(rgb[..., 2].mean()) - 20) / 2) for rgb in pictures]


def timed(path, times):
    """A lossless video of pictures that tell their index, shown at `times` in 1/1000 s."""
    return make_video(path, "ffv1", [picture(i / 3) for i in range(len(times))], "bgr0", list(times))


def nearest(times, fps, end):
    """For 0, 1/fps, … the index of the nearest of `times`, before `end` (all in 1/1000 s)."""
    slots = itertools.takewhile(lambda slot: slot < end, (1000 * k / fps for k in itertools.count()))
    return [min(range(len(times)), key=lambda i: (abs(times[i] - times[0] - slot), -i)) for slot in slots]


@pytest.mark.parametrize("rate", [25, 30000 / 1001, 30])
def test_frames_at_the_own_rate_are_all_frames_once(tmp_path, rate):
    """Though this container rounds time stamps to 1/1000 s."""
    path = timed(tmp_path / "a.mkv", [round(1000 * i / rate) for i in range(60)])
    assert chosen(path, round(rate, 3)) == list(range(60))


@pytest.mark.parametrize("rate, fps", [(60, 25), (60, 30), (50, 20), (25, 10), (15, 25), (24, 7.5)])
def test_frames_are_the_nearest_in_time(tmp_path, rate, fps):
    times = [700 + round(1000 * i / rate) for i in range(rate)]
    found = chosen(timed(tmp_path / "a.mkv", times), fps)
    assert found == nearest(times, fps, end=1000 * (1 - 0.5 / rate))[: len(found)]
    assert abs(len(found) - fps) <= 1


def test_a_pause_repeats_frames_and_a_jump_of_the_clock_does_not(tmp_path):
    times = [0, 40, 80, 480, 520]
    assert chosen(timed(tmp_path / "a.mkv", times), 25) == nearest(times, 25, end=539)
    jump = [0, 40, 80, 10_000_000, 10_000_040]
    assert set(chosen(timed(tmp_path / "b.mkv", jump), 25)) == set(range(5))
    assert len(list(frames_of(tmp_path / "b.mkv", FrameSettings(fps=25, short_side=None)))) < 50_000


def test_fps_makes_its_frames_and_is_noted(tmp_path):
    timed(tmp_path / "v/a.mkv", [round(1000 * i / 60) for i in range(60)])
    assert extract(tmp_path / "v", tmp_path / "f", "--fps", 20, "--short-side", 48) == 0
    assert len(list_frames(tmp_path / "f/a")) == 20
    frames = {"every": 1, "fps": 20, "short_side": 48, "quality": 95, "rate": 20}
    assert read_record(tmp_path / "f/a") == {"frames": frames, "count": 20, "damage": ""}
    before = tree(tmp_path / "f")
    assert extract(tmp_path / "v", tmp_path / "f", "--fps", "20.0", "--short-side", 48) == 0
    assert tree(tmp_path / "f") == before
    assert_error(call_main("extract_frames", tmp_path / "v", tmp_path / "f", "--fps", 20, "--every", 2), "not allowed")


def test_a_root_tells_the_rate_that_its_videos_share(tmp_path):
    for name, rate in (("a", 60), ("b", 59), ("c", 61)):
        timed(tmp_path / f"v/{name}.mkv", [round(1000 * i / rate) for i in range(rate)])
    assert extract(tmp_path / "v", tmp_path / "f", "--every", 2) == 0
    assert root_record(tmp_path / "f")["frames"]["rate"] == pytest.approx(30, abs=0.3)
    write_record(tmp_path / "f/c", {"frames": {"rate": 10}})
    assert root_record(tmp_path / "f")["frames"]["rate"] is None


# ---- names ----


def test_folders_of_classes_and_twins(tmp_path):
    root = tmp_path / "v"
    for name in (
        "Run/v_Run_g01_c01.avi",
        "Run/one.avi",
        "Hop/v_one.avi",
        "top.avi",
        "Run/.hidden.avi",
        ".git/x.avi",
        "HandstandPushups/v_HandStandPushups_g01_c01.avi",
        "Run/deeper/x.avi",
        "Run/notes.txt",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert find_videos(root) == {
        "v_Run_g01_c01": root / "Run/v_Run_g01_c01.avi",
        "Run/one": root / "Run/one.avi",
        "Hop/v_one": root / "Hop/v_one.avi",
        "top": root / "top.avi",
        "v_HandStandPushups_g01_c01": root / "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    }


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "no videos in it"),
        (["notes.txt"], "no videos in it"),
        (["a/x.avi", "a/x.mp4"], "x.avi and"),
        (["a/x.avi", "a/v_x.mp4"], "both would be called 'x'"),
        (["x.avi", "x.mkv"], "both would be called"),
        (["a/x.avi", "b/x.avi", "c/a.avi"], "called like the class"),
    ],
)
def test_names_that_cannot_be(tmp_path, names, words):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=words):
        extract(tmp_path, tmp_path / "frames")
    assert not (tmp_path / "frames").exists()


def test_single_video_of_any_extension(tmp_path, monkeypatch):
    make_video(tmp_path / "a.avi").rename(tmp_path / "12:30.bin")
    monkeypatch.chdir(tmp_path)
    assert extract("12:30.bin", "f") == 0
    assert len(list_frames("f/12:30")) == 12


# ---- once more ----


@pytest.mark.parametrize("lost", [(1,), (5,), (2, 3, 5), (1, 2, 3, 4, 5)])
def test_a_folder_that_lost_frames_is_made_again(tmp_path, capsys, lost):
    for name in "ab":
        make_video(tmp_path / f"v/{name}.avi", pictures=[picture(i) for i in range(5)])
    run = (tmp_path / "v", tmp_path / "f", "--short-side", 32)
    assert extract(*run) == 0
    before = tree(tmp_path / "f")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "f/b").iterdir()}
    for number in lost:
        (tmp_path / f"f/a/frame{number:06d}.jpg").unlink()
    capsys.readouterr()
    assert extract(*run) == 0
    assert "1 done (5 frames" in capsys.readouterr().out
    assert tree(tmp_path / "f") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "f/b").iterdir()} == stamps


def test_images_made_otherwise_are_refused(tmp_path):
    make_video(tmp_path / "v/a.avi", pictures=[picture(0)] * 3)
    assert extract(tmp_path / "v", tmp_path / "f") == 0
    run = ("extract_frames", tmp_path / "v", tmp_path / "f")
    assert_error(call_main(*run, "--every", 2), "made with every = 1, now it is 2")
    assert_error(call_main(*run, "--fps", 25), "with fps = None")
    make_video(tmp_path / "v/b.avi", pictures=[picture(0)] * 3)
    write_record(tmp_path / "f/b", {"frames": {"short_side": 80}})
    finished = call_main(*run)
    assert finished.returncode and "was made with short side = 80, now it is 256" in finished.stderr


def test_frames_without_a_record_are_finished_and_what_else_lies_there_stays(tmp_path, capsys):
    """As earlier versions and other tools wrote them."""
    for name in "abcdef":
        make_video(tmp_path / f"v/{name}.avi", pictures=[picture(0)] * 3)
    assert extract(tmp_path / "v", tmp_path / "f") == 0
    for name in "abc":
        (tmp_path / f"f/{name}" / RECORD).unlink()
    (tmp_path / "f/a/frame000003.jpg").unlink()  # finished, it seems
    (tmp_path / "f/b/frame000002.jpg").unlink()  # a gap
    for name in ("c", "d"):
        (tmp_path / f"f/{name}/notes.txt").touch()
    (tmp_path / "f/d/frame000002.jpg").unlink()
    shutil.rmtree(tmp_path / "f/e")
    (tmp_path / "f/e").touch()
    for path in (tmp_path / "f/f").iterdir():
        path.unlink()
    before = tree(tmp_path / "f")
    capsys.readouterr()
    assert extract(tmp_path / "v", tmp_path / "f") == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "is in the way" in line]
    assert [line.split(":")[1].split("/")[-1] for line in lines] == ["b.avi", "d.avi", "e.avi"]
    assert "1 done (3 frames" in out and "2 were there" in out
    after = tree(tmp_path / "f")
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 4


# ---- broken videos ----


def test_broken_videos_are_reported_and_the_others_done(tmp_path):
    root = tmp_path / "v"
    make_video(root / "fine.avi")
    (root / "empty.avi").touch()
    (root / "text.mp4").write_text("no video at all\n" * 100)
    make_sound(root / "sound.mp4")
    cut = make_video(root / "cut.mp4", "libx264")
    cut.write_bytes(cut.read_bytes()[:-300])  # without the table at its end
    (root / "gone.avi").symlink_to(root / "nowhere.avi")
    (root / "playlist.avi").write_text("ffconcat version 1.0\nfile http://127.0.0.1:9/x.avi\n")
    result = subprocess.run(
        [sys.executable, ROOT / "extract_frames.py", root, tmp_path / "f", "--workers", "2"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert find_frame_folders(tmp_path / "f") == ["fine"]
    skipped = [line for line in result.stderr.splitlines() if line.startswith("skipped: ")]
    assert [line.split(": ")[1].rsplit("/")[-1] for line in skipped] == [
        "cut.mp4",
        "empty.avi",
        "playlist.avi",
        "sound.mp4",
        "text.mp4",
    ]
    assert "no video stream" in skipped[3] and "Traceback" not in result.stderr
    assert "1 done (12 frames" in result.stdout and "5 broken" in result.stdout


def test_slightly_damaged_video_is_kept_and_named_each_time(tmp_path, capsys):
    noise = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(20)]
    path = make_video(tmp_path / "v/a.mov", "png", noise, "rgb24")
    overwrite(path, 0.5, 200)
    for _ in range(2):
        assert extract(tmp_path / "v", tmp_path / "f") == 0
        out, err = capsys.readouterr()
        assert err.startswith(f"kept: {path}: damaged: ") and "1 damaged, 0 broken" in out
    assert 18 <= len(list_frames(tmp_path / "f/a")) <= 20


def test_video_that_is_mostly_lost_is_skipped(tmp_path, capsys):
    path = make_video(tmp_path / "v/a.avi", "mjpeg", [picture(i) for i in range(30)], "yuvj420p")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.4)])
    assert extract(tmp_path / "v", tmp_path / "f") == 1
    assert "of 30 frames can be decoded" in capsys.readouterr().err
    assert not list((tmp_path / "f").glob("*"))


def test_video_that_was_cut_off_is_named(tmp_path):
    path = make_video(tmp_path / "a.mkv", "ffv1", [picture(i % 30) for i in range(60)], "bgr0")
    damage = []
    whole = len(list(frames_of(path, damage=damage)))
    assert whole == 60 and damage == []
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    assert 25 <= len(list(frames_of(path, damage=damage))) < 45
    assert len(damage) == 1 and ("cut short" in damage[0] or "damaged" in damage[0])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["avi", "mov", "mkv", "gif"]), st.floats(0, 1), st.binary(max_size=60), st.booleans())
def test_noise_in_a_file_ends_in_frames_or_in_a_reason(tmp_path_factory, suffix, place, noise, cut):
    folder = tmp_path_factory.getbasetemp()
    intact = folder / f"intact.{suffix}"
    if not intact.exists():
        codec, pix_fmt = {"gif": ("gif", "rgb8"), "mkv": ("ffv1", "bgr0"), "mov": ("png", "rgb24")}.get(
            suffix, ("mpeg4", None)
        )
        make_video(intact, codec, [picture(i, 16, 16) for i in range(4)], pix_fmt)
    data = bytearray(intact.read_bytes())
    start = int(place * len(data))
    data[start : len(data) if cut else start + len(noise)] = noise
    broken = folder / f"broken.{suffix}"
    broken.write_bytes(data)
    try:
        for frame in frames_of(broken):
            assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    except UserError as error:
        assert str(error)


# ---- shards, kills, full disks ----


def test_shards_together_equal_one_run(tmp_path):
    for i in range(9):
        make_video(tmp_path / f"v/{'AB'[i % 2]}/clip {i}.avi", pictures=[picture(i)] * 3)
    make_video(tmp_path / "v/A/twin.avi", pictures=[picture(1)] * 3)
    make_video(tmp_path / "v/B/twin.avi", pictures=[picture(2)] * 3)
    extract(tmp_path / "v", tmp_path / "whole", workers=2)
    seen = set()
    for part in (2, 0, 1):
        before = set(tree(tmp_path / "parts"))
        assert extract(tmp_path / "v", tmp_path / "parts", "--shard", f"{part}/3") == 0
        new = {name for name in set(tree(tmp_path / "parts")) - before if name.endswith(".jpg")}
        assert new and not new & seen
        seen |= new
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_shards_are_stable_and_of_like_size():
    for name in (*map(str, range(1000)), "Übung/é ö", "", "\udcff"):
        assert [in_shard(name, f"{part}/3") for part in range(3)].count(True) == 1
    sizes = [sum(in_shard(f"v_{i}", f"{part}/4") for i in range(4000)) for part in range(4)]
    assert min(sizes) > 900 and in_shard("any", None)
    forms = [[in_shard(unicodedata.normalize(form, "Übung"), f"{i}/9") for i in range(9)] for form in ("NFC", "NFD")]
    assert forms[0] == forms[1]
    assert [in_shard("v_Archery_g01_c01", f"{part}/5") for part in range(5)].index(True) == 4  # on every machine
    assert shard("01/004") == "1/4"


LONG = 150  # frames


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    make_video(folder / "a.avi", pictures=[picture(i % 30, 320, 240) for i in range(LONG)])
    for name in "bc":
        make_video(folder / f"{name}.avi")
    return folder


@pytest.mark.parametrize("sig, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_signals_leave_nothing_half(tmp_path, long_videos, sig, status, workers):
    command = [
        sys.executable,
        ROOT / "extract_frames.py",
        long_videos,
        tmp_path / "f",
        "--short-side",
        "480",
        "--workers",
        workers,
    ]
    with (tmp_path / "errors").open("wb") as errors:  # no pipe: workers left over would keep it open
        process = subprocess.Popen(command, stderr=errors, start_new_session=True)
    _wait_until(lambda: list((tmp_path / "f").glob(".tmp-*/a/frame000020.jpg")))
    process.send_signal(sig)
    assert process.wait(60) == status  # it would be 0, had the run gone on to its end
    assert "Traceback" not in (tmp_path / "errors").read_text()
    _wait_until(lambda: not _running(process.pid))
    if sig != signal.SIGKILL:
        assert not list((tmp_path / "f").glob(".tmp-*"))
    whole = {"a": LONG, "b": 12, "c": 12}
    assert all(len(list_frames(path)) == whole[path.name] for path in (tmp_path / "f").glob("[!.]*"))
    if sig == signal.SIGKILL:  # the next run works beside what is left, and removes it when it is a day old
        left = list((tmp_path / "f").glob(".tmp-*"))
        assert extract(long_videos, tmp_path / "f", "--short-side", 480) == 0
        assert all(len(list_frames(tmp_path / "f" / name)) == count for name, count in whole.items())
        assert left == list((tmp_path / "f").glob(".tmp-*"))
        for path in left:
            os.utime(path, (0, 0))
        assert extract(long_videos, tmp_path / "f", "--short-side", 480) == 0
        assert sorted(os.listdir(tmp_path / "f")) == ["a", "b", "c"]


def _running(group):
    """Processes of a process group, zombies aside."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(stat.parent.name)
    return found


def _wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_full_disk(tmp_path, monkeypatch):
    for name in "ab":
        make_video(tmp_path / f"v/{name}.avi")
    write, left = Path.write_bytes, [5]

    def write_until_full(path, data):
        left[0] -= 1
        if left[0] < 0:
            write(path, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    with pytest.raises(OSError, match="No space left") as caught:
        extract(tmp_path / "v", tmp_path / "f")
    assert caught.value.filename in (str(tmp_path / "f/a"), str(tmp_path / "f/b"))
    assert os.listdir(tmp_path / "f") == []


def test_mistakes_are_one_line(tmp_path):
    assert_error(call_main("extract_frames", tmp_path / "no", tmp_path / "f"), "no: no such file or folder")
    make_video(tmp_path / "v/a.avi")
    assert_error(call_main("extract_frames", tmp_path / "v", tmp_path / "v/a.avi"), "a.avi: is no folder")
    assert_error(call_main("extract_frames", tmp_path / "v", tmp_path / "f", "--quality", 101), "--quality")
