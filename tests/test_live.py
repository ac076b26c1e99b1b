"""predict.py --live: windows score as files do, latency stays bounded, and what was seen is kept."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from common.cli import UserError
from common.records import FrameSettings
from common.video import frames_of
from fusion.metrics import Calibration
from pose.people import interpolate_people
from prediction import live
from prediction.classify import Classifier, Fusion, Options, classify, describe
from prediction.live import (
    Captured,
    Handled,
    Seen,
    Watcher,
    classify_window,
    handle,
    line_of,
    newest_frames,
    open_table,
    resample,
    rows_of,
    watch,
)
from prediction.timeline import Plan
from tests.helpers import assert_error, call_main, moving, write_video
from tests.live_sources import COUNT, RATE, picture, rows, wait_for, web
from tests.prediction_data import CLASSES, classifier_of, fake_estimator, write_checkpoint
from training.streams import MOTION_POSE, SPATIAL
from utils import StopRequest


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("live")
    write_video(root / "www/clip.mkv", moving(COUNT, (64, 48)), rate=RATE)
    write_video(root / "www/long.mkv", moving(60 * RATE, (64, 48)), rate=RATE)
    write_checkpoint(root / "spatial.pth.tar", 3, 1)
    write_checkpoint(root / "motion.pth.tar", 30, 2)
    return root


@pytest.fixture
def server(data):
    with web(data / "www") as address:
        yield address


# ---- windows ----


def handled_at(*times: float) -> list[Handled]:
    generator = np.random.default_rng(0)
    people = generator.random((len(times), 2, 18, 3)).astype(np.float32)
    return [Handled(at, np.full((40, 50, 3), i, np.uint8), people[i]) for i, at in enumerate(times)]


def test_frames_at_the_rate_of_training_are_taken_as_they_are():
    handled = handled_at(*(7 + (np.arange(30) + np.random.default_rng(1).uniform(-0.4, 0.4, 30)) / 25)[1:])
    assert resample(handled, 25).num_frames in (28, 29, 30)
    handled = handled_at(*7 + np.arange(30) / 25)
    window = resample(handled, 25)
    assert window.num_frames == 30 and list(window.pictures) == list(range(1, 31))
    for number, frame in enumerate(handled, 1):
        assert window.pictures[number] is frame.picture
        np.testing.assert_array_equal(window.people[number], frame.people)


def test_moments_between_handled_frames_and_several_of_one_moment():
    handled = handled_at(0, 0.41, 0.5, 0.62, 1.0)  # at 5 a second: moments 0, 2, 2 or 3 (a tie), 3, 5
    window = resample(handled, 5)
    assert window.num_frames == 6 and list(window.pictures) == list(window.people) == [1, 2, 3, 4, 5, 6]
    assert [picture.max() for picture in window.pictures.values()] == [0, 0, 1, 3, 3, 4]
    for number, frame in ((1, 0), (3, 1), (4, 3), (6, 4)):
        np.testing.assert_array_equal(window.people[number], handled[frame].people)
    between = interpolate_people(handled[0].people, handled[1].people, 0.5, (40, 50))
    np.testing.assert_array_equal(window.people[2], between)
    assert resample(handled[:1], 5).num_frames == 1


@pytest.fixture(scope="module")
def classifier(data) -> Classifier:
    files = {SPATIAL: data / "spatial.pth.tar", MOTION_POSE: data / "motion.pth.tar"}
    cleaning = {"min_score": None, "max_people": 1, "smooth": float(RATE)}
    options = Options(FrameSettings(fps=RATE, short_side=40), cleaning)
    return classifier_of(files, people=fake_estimator(), options=options)


def test_a_window_scores_as_the_same_frames_of_a_file(data, classifier):
    path = data / "www/clip.mkv"
    expected = classify(path, classifier)
    frames = enumerate(frames_of(path))
    handled = [handle(Captured(3 + i / RATE, lambda rgb=rgb: rgb, 1), classifier) for i, rgb in frames]
    found = classify_window(handled, classifier)
    assert found.window.num_frames == expected.window.num_frames == COUNT
    for name in classifier.models:
        np.testing.assert_array_equal(found.logits[name], expected.logits[name])


def test_nobody_before_the_camera(classifier):
    motion = classifier._replace(models={MOTION_POSE.name: classifier.models[MOTION_POSE.name]})
    empty = [frame._replace(people=frame.people[:0]) for frame in handled_at(*np.arange(30) / 25)]
    result = describe(classify_window(empty, motion), Fusion(CLASSES, {MOTION_POSE.name: Calibration()}))
    seen = Seen(result, 0.0, 1.0, 30, 25.0, 30, 30, 0.5)
    assert "people 0 %  nobody in view: people in 0 of the" in line_of(seen, 3)
    both = describe(classify_window(empty, classifier), classifier.fusion)
    line = line_of(seen._replace(result=both), 1)
    assert both["answer"] in line and line.endswith(" | " + both["notes"][0]) and "without motion_pose" in line
    (row,) = rows_of(seen)
    assert row.keys() <= set(live.COLUMNS) and (row["people"], row["class"]) == ("0.000", "nobody in view")


# ---- the loop ----


def slow_watch(monkeypatch, seconds: float, opener, plan: Plan) -> tuple[list, list]:
    """`watch` for some seconds with an estimator that takes 40 ms and streams that take 300.

    Returns the ages of frames when they were taken, and what was seen with its age then.
    """
    ages, seen, stop = [], [], StopRequest()
    real = live.handle

    def handle_slowly(frame, *others):
        ages.append(time.monotonic() - frame.time)
        time.sleep(0.04)
        return real(frame, *others)

    def score_slowly(window, classifier):
        time.sleep(0.3)
        return {"spatial": np.array([len(window.pictures), len(window.people), window.frame_size[0]], np.float32)}

    monkeypatch.setattr(live, "handle", handle_slowly)
    monkeypatch.setattr(live, "score", score_slowly)
    frames = newest_frames("x", opener, pauses=(0.1,))
    options = Options(FrameSettings(fps=RATE, short_side=48))
    end = time.monotonic() + seconds
    classifier = Classifier({}, Fusion(CLASSES, {"spatial": Calibration()}), fake_estimator(), options)
    for result in watch(frames, classifier, plan, stop):
        seen.append((result, result.latency))
        stop.signum = int(time.monotonic() > end)
    return ages, seen


def logits(seen: Seen) -> list[float]:
    return [seen.result["streams"]["spatial"]["logits"][name] for name in CLASSES]


def test_frames_are_skipped_and_latency_stays_bounded(monkeypatch):
    def opener(source):
        while True:
            time.sleep(0.01)
            yield picture()

    ages, seen = slow_watch(monkeypatch, 3, opener, Plan(1.0, 0.1))
    results, latencies = zip(*seen, strict=True)
    last = results[-1]
    # 60 or more of 100 frames a second cannot be handled: in a queue their age would have grown by more than a second.
    assert last.captured > 1.5 * last.handled > 20
    assert np.median(ages) < 0.1 and min(latencies[-3:]) < 0.3 + 0.04 + 0.5
    assert 4 <= len(results) <= 11  # not every 0.1 s: one after the other
    starts = np.diff([result.time for result in results])
    assert np.median(starts) >= 0.3
    # Frames are handled while the streams work, and the window is as long as it should be.
    assert last.frames > 8 and last.fps > 8
    counts = np.array([result.result["frames"] for result in results])
    frames, people, _ = np.array([logits(result) for result in results]).T
    np.testing.assert_array_equal(counts, frames)
    np.testing.assert_array_equal(counts, people)
    assert counts.max() <= RATE and counts[-1] >= RATE - 4 and counts[0] < 8


def test_the_window_starts_anew_after_a_loss_or_with_frames_of_another_size(monkeypatch):
    opened = []

    def opener(source):
        opened.append(1)
        for i in range(40):
            time.sleep(0.02)
            yield picture() if len(opened) < 2 or i < 20 else lambda: np.zeros((64, 48, 3), np.uint8)
        if len(opened) < 2:
            raise UserError("gone")

    _, seen = slow_watch(monkeypatch, 60, opener, Plan(100.0, 0.3))
    assert {logits(result)[2] for result, _ in seen} == {48, 64}  # the height of frames
    assert max(result.result["frames"] for result, _ in seen) <= 1.5 * RATE  # never those of both connections
    # The last window is scored although no stride has passed since the one before.
    assert seen[-1][0].handled == max(result.handled for result, _ in seen) and seen[-1][0].captured == 80


def test_a_window_of_less_than_a_frame_holds_one(monkeypatch):
    def opener(source):
        for _ in range(10):
            time.sleep(0.03)
            yield picture()

    _, seen = slow_watch(monkeypatch, 60, opener, Plan(0.001, 0.1))
    assert seen and {result.result["frames"] for result, _ in seen} == {1}


def test_what_goes_wrong_with_a_window_is_told(monkeypatch):
    def fail(*args):
        raise UserError("the scores are not finite")

    monkeypatch.setattr(live, "score", fail)
    fusion = Fusion(CLASSES, {"spatial": Calibration()})
    watcher = Watcher(Classifier({}, fusion, None, Options()), Plan(1, 0.1))
    for at in (0.0, 0.2):
        assert watcher.news() is None
        watcher.see(Captured(at, picture()))
    with pytest.raises(UserError, match="not finite"):
        watcher.news(wait=True)


# ---- the script ----


@pytest.fixture
def estimating(monkeypatch):
    monkeypatch.setattr("prediction.classify.estimator_from_arguments", lambda *args: fake_estimator())


def arguments(data: Path, *others) -> tuple:
    streams = ("--spatial", data / "spatial.pth.tar", "--motion", data / "motion.pth.tar")
    return (*streams, "--device", "cpu", "--short-side", 40, "--every", 1, "--stride", 0.5, *others)


def test_a_video_to_its_end(data, tmp_path, server, estimating):
    source = f"{server}/clip.mkv"
    table = tmp_path / "new/seen.csv"
    start = time.monotonic()
    finished = call_main("predict", "--live", source, *arguments(data, "--csv", table, "--topk", 2))
    assert finished.returncode == 0, finished.stderr
    assert time.monotonic() - start > (COUNT - 1) / RATE
    seen, lines = rows(table), finished.stdout.splitlines()
    assert 2 <= len(seen) == len(lines) - 1 and not finished.stderr
    assert f"{COUNT} frames" in lines[-1] and f"{len(seen)} times classified" in lines[-1]
    assert float(seen[-1]["seconds"]) == pytest.approx((COUNT - 1) / RATE, abs=0.4)
    for row, line in zip(seen, lines, strict=False):
        probabilities = {name: float(row[name]) for name in CLASSES}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["class"] == max(probabilities, key=probabilities.get) and row["people"] == "1.000"
        assert float(row["probability"]) == max(probabilities.values())
        assert f"{row['class']} {100 * float(row['probability']):.1f}, " in line


def test_ctrl_c_ends_it_and_leaves_a_whole_table(data, tmp_path, estimating):
    table = tmp_path / "seen.csv"

    def interrupt():
        wait_for(lambda: table.exists() and table.read_bytes().count(b"\n") > 2, 60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    finished = call_main("predict", "--live", data / "www/long.mkv", *arguments(data, "--csv", table))
    assert finished.returncode == 0, finished.stderr
    seen = rows(table)
    assert table.read_bytes().endswith(b"\n") and 2 <= len(seen) == len(finished.stdout.splitlines()) - 1 < 60
    assert f"{len(seen)} times classified" in finished.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--live 97", ["97", "No such file", "give a camera"]),
        ("--live SERVER/none.mkv", ["none.mkv", "404"]),
        ("--live rtsp://me:secret@127.0.0.1:9/x", ["--live rtsp://127.0.0.1:9/x: Connection refused"]),
        ("--live none.mp4", ["none.mp4", "No such file"]),
        ("--live CHECKPOINT", ["spatial.pth.tar", "Invalid data"]),
        ("--live 0 clip.mkv", ["either videos", "--live"]),
        ("--live 0 --overlay a.mp4", ["--overlay does not go with --live"]),
        ("--live 0 --csv OTHER", ["other.csv", "other columns"]),
        ("--live 0 --stride 0", ["--stride", "positive"]),
        ("clip.mkv --csv a.csv", ["needs --live"]),
    ],
)
def test_mistakes(data, tmp_path, server, given, words):
    tmp_path.joinpath("other.csv").write_text("time,seconds\n")
    names = {"CHECKPOINT": data / "spatial.pth.tar", "OTHER": tmp_path / "other.csv"}
    given = [names.get(word, word.replace("SERVER", server)) for word in given.split()]
    spatial = ("--spatial", data / "spatial.pth.tar", "--device", "cpu", "--every", 1)
    assert_error(call_main("predict", *spatial, *given), *words)


def test_a_table_goes_on_where_it_ended(tmp_path):
    file = tmp_path / "seen.csv"
    for value in ("1", "2"):
        with open_table(file, ["time", "Tai, Chi"]) as write:
            write([{"time": value, "Tai, Chi": value}])
            assert rows(file)[-1]["Tai, Chi"] == value  # at once, not at the end
    assert [row["time"] for row in rows(file)] == ["1", "2"]
