"""Live sources: only the newest frame is given, files keep their speed, and what is lost comes back."""

import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from common.cli import UserError
from common.video import frames_of
from prediction import live
from prediction.live import newest_frames, read_source
from tests.helpers import moving, write_video
from tests.live_sources import COUNT, RATE, picture, wait_for, web
from tests.test_video import levels


def test_only_the_newest_frame_is_given():
    go, came = threading.Semaphore(0), []

    def opener(name):
        for value in range(8):
            go.acquire()
            came.append(value)
            yield picture(value)

    with closing(newest_frames("x", opener)) as frames:
        assert next(frames) is None
        go.release(5)
        wait_for(lambda: len(came) == 5)
        time.sleep(0.05)
        first = next(frames)
        assert first.picture()[0, 0, 0] == 4 and first.number == 5 and next(frames) is None
        go.release(3)
        wait_for(lambda: len(came) == 8)
        time.sleep(0.05)
        assert next(frames).picture()[0, 0, 0] == 7
        assert list(frames) == []


def test_files_keep_their_speed_where_stamps_are_out_of_order(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", levels(20), rate=25, max_b_frames=2)
    now, shown = [100.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live.time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    for _ in read_source(str(path)):
        shown.append(now[0] - 100)
    assert shown == pytest.approx([i / 25 for i in range(20)])


def test_a_lost_source_is_tried_again_with_growing_pauses(capsys):
    opened = []

    def opener(name):
        opened.append(time.monotonic())
        if len(opened) in (2, 3):
            raise OSError("unplugged")
        yield picture(len(opened))
        if len(opened) == 1:
            raise UserError("the stream ended")
        if len(opened) == 4:
            time.sleep(1)  # silent

    address = "rtsp://me:secret@cam/1"
    with closing(newest_frames(address, opener, silence=0.3, pauses=(0.1, 0.2, 0.4))) as frames:
        seen = list(filter(None, frames))
    assert [frame.connection for frame in seen] == [1, 4, 5] and [frame.number for frame in seen] == [1, 2, 3]
    pauses = np.diff(opened)
    assert (pauses >= (0.1, 0.2, 0.4, 0.3 + 0.1)).all() and pauses.max() < 1
    reasons = ["the stream ended", "unplugged", "unplugged", "come again", "no frame for 0.3 s", "come again"]
    notices = capsys.readouterr().err.splitlines()
    assert len(notices) == len(reasons)
    for notice, reason in zip(notices, reasons, strict=True):
        assert notice.startswith("rtsp://cam/1: ") and reason in notice


def test_a_source_that_gives_nothing_at_all_is_an_error():
    def silent(name):
        time.sleep(2)
        yield picture()

    def empty(name):
        yield from ()

    for opener, reason in ((silent, "no frame for 0.1 s"), (empty, "no frame of it can be decoded")):
        with closing(newest_frames("x", opener, silence=0.1)) as frames, pytest.raises(UserError, match=reason):
            list(frames)


def test_an_address_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(live, "SILENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(UserError, match=r"no answer for 0\.3 s"):
        next(read_source(f"http://127.0.0.1:{mute.getsockname()[1]}/clip.mkv"))


def test_a_file_is_played_at_its_own_speed(tmp_path):
    write_video(tmp_path / "12:30.mkv", moving(COUNT, (64, 48)), rate=RATE)
    start, path = time.monotonic(), tmp_path / "12:30.mkv"
    times, pictures = zip(*((time.monotonic() - start, show()) for show in read_source(str(path))), strict=True)
    np.testing.assert_array_equal(pictures, list(frames_of(path)))
    due = np.arange(COUNT) / RATE
    assert (np.array(times) >= due).all() and np.median(times - due) < 0.3


def test_a_camera_behind_an_address_that_breaks(capsys):
    frames = []
    with web(Path("none")) as server, closing(newest_frames(f"{server}/camera", pauses=(0.05,))) as source:
        while not frames or frames[-1].connection < 3:
            frames += filter(None, [next(source)])
        brightness = [frame.picture().mean() for frame in frames]
    assert {frame.picture().shape for frame in frames} == {(48, 64, 3)}
    assert {1, 2} <= {frame.connection for frame in frames}
    assert brightness[-1] == pytest.approx(200, abs=4)
    notices = capsys.readouterr().err.splitlines()
    assert all("lost (" in notice for notice in notices[::2]) and "come again" in notices[1]
