"""predict.py --timeline: windows against whole videos, segments with known borders, and what goes wrong."""

import csv
import json
import weakref
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from common.cli import UserError
from common.records import FrameSettings
from dataloader.sampling import test_starts as starts_of
from fusion.metrics import Calibration
from pose.estimators import Estimator
from pose.keypoints import Keypoints, join_frames
from prediction import timeline
from prediction.classify import NOBODY_IN_VIEW, Classifier, Fusion, Options, Prediction, classify
from prediction.timeline import (
    NONE,
    Plan,
    Timeline,
    bars_of_frames,
    classify_windows,
    clock,
    segments,
    subtitles_of,
    window_starts,
    windows_of,
    write_timeline,
)
from tests.helpers import call_main, read_video, write_video
from tests.prediction_data import COLOUR_CLASSES as CLASSES
from tests.prediction_data import (
    classifier_of,
    coloured,
    fake_estimator,
    nobody,
    noise,
    people_of,
    write_checkpoint,
    write_colour_network,
)
from training.streams import MOTION_POSE, SPATIAL, Stream, Window

RATE = 10
CPU = ("--device", "cpu", "--no-amp", "--short-side", "40")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("timeline")
    write_colour_network(root / "colour.pth.tar")
    write_checkpoint(root / "spatial.pth.tar", 3, 1)
    write_checkpoint(root / "motion.pth.tar", 30, 2)
    write_video(root / "three.mkv", coloured(40, 30, 36), "ffv1")
    write_video(root / "noise.mkv", noise(47), "ffv1")
    return root


@pytest.fixture(scope="module")
def classifier(data) -> Classifier:
    """Two streams without anything that finds people."""
    files = {SPATIAL: data / "spatial.pth.tar", MOTION_POSE: data / "motion.pth.tar"}
    return classifier_of(files, CLASSES, options=Options(FrameSettings(short_side=40)))


def alone(classifier: Classifier, stream: Stream) -> Classifier:
    models = {stream.name: classifier.models[stream.name]}
    return classifier._replace(models=models, fusion=Fusion(CLASSES, {stream.name: Calibration()}))


# ---- windows ----


@pytest.mark.parametrize(
    ("count", "length", "stride", "expected"),
    [
        (10, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (11, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10), (7, 11)]),
        (4, 4, 1, [(0, 4)]),
        (3, 4, 1, [(0, 3)]),
        (1, 4, 1, [(0, 1)]),
        (12, 2, 5, [(0, 2), (5, 7), (10, 12)]),
        (14, 2, 5, [(0, 2), (5, 7), (10, 12), (12, 14)]),
    ],
)
def test_windows_cover_the_items(count, length, stride, expected):
    found = list(windows_of(range(count), length, iter(range(0, 1000, stride))))
    assert [(start, start + len(items)) for start, items in found] == expected
    assert all(items == list(range(start, start + len(items))) for start, items in found)


def test_starts_are_rounded_but_never_repeat():
    assert list(islice(window_starts(Plan(4, 1.5), Fraction(25)), 4)) == [0, 38, 75, 112]
    assert list(islice(window_starts(Plan(4, 1), Fraction(30000, 1001), 4), 4)) == [0, 28, 60, 88]
    assert list(islice(window_starts(Plan(4, 0.001), Fraction(10)), 3)) == [0, 1, 2]


def test_no_more_than_a_window_is_held():
    class Item:
        pass

    def items():
        for _ in range(300):
            known.add(item := Item())
            yield item
            del item
            alive.append(len(known))

    alive, known = [], weakref.WeakSet()
    for _ in windows_of(items(), 20, iter(range(0, 1000, 5))):
        pass
    assert len(alive) == 300 and max(alive) < 20 + 5  # the loop itself keeps the window before


CLEANING = {"min_score": None, "max_people": 1, "smooth": 10.0}


@pytest.mark.parametrize(("every", "cleaning"), [(1, None), (2, CLEANING)])
def test_windows_are_scored_as_files_of_their_frames(data, classifier, tmp_path, every, cleaning):
    """Streams, people found, interpolated and cleaned: all as `classify` does with a video cut to the window."""
    seen = []
    options = Options(FrameSettings(short_side=40), cleaning, every)
    classifier = classifier._replace(
        fusion=classifier.fusion._replace(weights=[1, 2]), people=fake_estimator(seen), options=options
    )
    result = classify_windows(data / "noise.mkv", classifier, Plan(1.5, 1.1))
    starts = [every * round(number * 11 / every) for number in range(4)]
    expected = [(start, start + 15) for start in starts if start + 15 <= 47]
    expected += [(32, 47)] * (expected[-1][1] < 47)
    assert result.spans.tolist() == [list(span) for span in expected] and result.whole.window.num_frames == 47
    assert len(seen) <= 47 if every == 1 else len(seen) < 40
    assert len({frame.tobytes() for frame in seen}) == len(seen) == len(result.whole.window.people) or every > 1
    pictures, means = noise(47), dict.fromkeys(classifier.models, 0)
    for (first, end), probabilities in zip(expected, result.probabilities, strict=True):
        cut = write_video(tmp_path / f"{first}.mkv", pictures[first:end], "ffv1")
        own = classify(cut, classifier).logits
        fused = (own["spatial"].astype(float) + 2 * own["motion_pose"]) / 3
        np.testing.assert_allclose(probabilities, np.exp(fused) / np.exp(fused).sum(), atol=1e-5)
        means = {name: means[name] + own[name] / len(expected) for name in classifier.models}
    for name, logits in result.whole.logits.items():
        np.testing.assert_allclose(logits, means[name], atol=1e-4)


def test_people_of_a_frame_are_found_once(data, classifier):
    """Also where a window between two does not look at it."""
    seen, options = [], Options(FrameSettings(short_side=40), clips=2)
    motion = alone(classifier, MOTION_POSE)._replace(people=fake_estimator(seen), options=options)
    assert len(classify_windows(data / "noise.mkv", motion, Plan(4, 0.3)).spans) > 2
    assert len({frame.tobytes() for frame in seen}) == len(seen) > 20


def test_keypoints_of_the_window(data, classifier):
    """Those of a file give what finding the same people in the same frames gives; they must be the video's own."""
    finding = classifier._replace(
        people=fake_estimator(), options=Options(FrameSettings(short_side=40), every_pose=True)
    )
    found = classify_windows(data / "noise.mkv", finding, Plan(2, 1))
    keypoints = found.whole.window.keypoints
    assert sorted(found.whole.window.people) == list(range(1, 48))
    looked_up = classify_windows(data / "noise.mkv", finding._replace(people=keypoints), Plan(2, 1))
    np.testing.assert_array_equal(found.probabilities, looked_up.probabilities)
    wrong = Keypoints(keypoints.keypoints[:3], keypoints.frame[:3], 46, keypoints.frame_size)
    with pytest.raises(UserError, match="46 frames, but it has 47"):
        classify_windows(data / "noise.mkv", alone(classifier, SPATIAL)._replace(people=wrong), Plan(2, 2))


def test_a_window_of_the_whole_video_is_the_video(data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("prediction.classify.estimator_from_arguments", lambda *args: fake_estimator(seen))
    streams = ("--spatial", data / "spatial.pth.tar", "--motion", data / "motion.pth.tar", "--model", "openpose")
    results = []
    for extra in ((), ("--timeline", tmp_path / "t.png")):
        finished = call_main(
            "predict", data / "noise.mkv", *streams, *CPU, "--window", 9, "--json", tmp_path / "r.json", *extra
        )
        assert finished.returncode == 0, finished.stderr
        results.append(json.loads((tmp_path / "r.json").read_text())["videos"][0])
    assert len(seen) == 2 * 46
    plain, windows = results
    assert plain.pop("answer") is not None  # of windows, segments tell it
    assert windows | {"segments": 0, "timeline": 0} == plain | {"segments": 0, "timeline": 0}
    (segment,) = windows["segments"]
    assert (segment["start"], segment["end"]) == (0, 4.7)
    assert segment["probability"] == pytest.approx(max(plain["fused"]["probabilities"].values()), abs=1e-4)


# ---- segments ----


def expected_borders(counts, length: int, stride: int) -> list[float]:
    """In frames: midway between the centres of the last window with more test positions on one colour and the next."""
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = list(range(0, len(owner) - length + 1, stride))
    starts += [len(owner) - length] * (starts[-1] + length < len(owner))
    won = [np.bincount([owner[start + at - 1] for at in starts_of(length)]).argmax() for start in starts]
    return [
        (a + b + length) / 2 for a, b, one, other in zip(starts, starts[1:], won, won[1:], strict=False) if one != other
    ]


def test_three_actions_in_one_file(data, tmp_path):
    """The script, as a user runs it: segments, table, files that other programs read."""
    file = tmp_path / "was geschieht.png"
    finished = call_main(
        "predict",
        *(data / "three.mkv", "--spatial", data / "colour.pth.tar", *CPU, "--timeline", file),
        *("--window", 2, "--stride", 0.5, "--overlay", tmp_path / "o.mp4", "--json", tmp_path / "r.json"),
    )
    assert finished.returncode == 0, finished.stderr
    cuts = [frame / RATE for frame in expected_borders((40, 30, 36), 20, 5)]
    assert len(cuts) == 2 and abs(cuts[0] - 4) <= 0.5 and abs(cuts[1] - 7) <= 0.5
    content = json.loads(file.with_suffix(".json").read_text("utf-8"))
    found = [(segment["start"], segment["end"], segment["class"]) for segment in content["segments"]]
    assert found == list(zip([0, *cuts], [*cuts, 10.6], CLASSES, strict=True))
    assert json.loads((tmp_path / "r.json").read_text())["videos"][0]["segments"] == content["segments"]
    rows = list(csv.DictReader(file.with_suffix(".csv").open(encoding="utf-8", newline="")))
    assert len(rows) == len(content["windows"]) == 19 and rows[1]["start"] == "0.5" and rows[1]["end"] == "2.5"
    assert [row["winner"] for row in rows] == [window["winner"] for window in content["windows"]]
    assert all(sum(float(row[name]) for name in CLASSES) == pytest.approx(1, abs=1e-5) for row in rows)
    with av.open(str(file.with_suffix(".srt"))) as container:  # FFmpeg's reader of subtitles
        lines = [packet for packet in container.demux() if packet.size]
    assert [(float(p.pts * p.time_base), float((p.pts + p.duration) * p.time_base)) for p in lines] == [
        pytest.approx(segment[:2], abs=1e-3) for segment in found
    ]
    assert [bytes(packet).decode().split(" (")[0] for packet in lines] == CLASSES
    table = finished.stdout[finished.stdout.index("segment") :].splitlines()
    assert [line.split()[-3:-1] for line in table[1:4]] == [[clock(start, 1), clock(end, 1)] for start, end, _ in found]
    picture = np.asarray(Image.open(file).convert("RGB"))
    assert 200 < picture.shape[0] < 700 and 1000 < picture.shape[1] < 1600
    # The panel of the overlay changes at the border and not within a moment.
    frames, _ = read_video(tmp_path / "o.mp4")
    panels = np.stack([frame[490:] for frame in frames])
    changed = {number for number in range(1, 106) if np.abs(panels[number] - panels[number - 1]).max() > 60}
    first_frames = {round(cut * RATE - 0.5) for cut in cuts}  # whose middle is the border, or follows it
    assert first_frames <= changed <= {*range(12, 96, 5), 95}


def made_timeline(probabilities, minimum: float, length: int = 4, stride: int = 2, classes=("a", "b")) -> Timeline:
    values = np.array(probabilities, np.float32)
    starts = stride * np.arange(len(values))
    spans = np.stack((starts, starts + length), axis=1)
    whole = Prediction({}, Window(int(spans[-1, 1])))
    return Timeline(classes, minimum, Fraction(2), whole, spans, values, np.ones(len(values), np.float32))


def test_segments_of_windows():
    rows = [[0.9, 0.1], [0.7, 0.3], [0.55, 0.45], [np.nan] * 2, [np.nan] * 2, [0.2, 0.8]]
    made = made_timeline(rows, 0.6)
    assert made.borders.tolist() == [0, 1.5, 2.5, 3.5, 4.5, 5.5, 7]
    found, spans = segments(made), [(0, 2.5, "a"), (2.5, 3.5, NONE), (3.5, 5.5, NOBODY_IN_VIEW), (5.5, 7, "b")]
    assert [(part["start"], part["end"], part["class"]) for part in found] == spans
    assert [part["probability"] for part in found] == [0.8, 0.55, None, 0.8]
    assert [part["class"] for part in segments(made_timeline(rows, 0))] == ["a", NOBODY_IN_VIEW, "b"]
    bars = bars_of_frames(made, 3)
    assert bars[0].top == [("a", pytest.approx(0.9)), ("b", pytest.approx(0.1))] and bars[0] is bars[1]
    assert [panel.top[0][0] for panel in bars] == ["a"] * 7 + [NOBODY_IN_VIEW] * 4 + ["b"] * 3
    assert [panel.answered for panel in bars] == [True] * 5 + [False] * 6 + [True] * 3
    assert [bars[number].notes for number in (4, 5, 7)] == [[""], ["none of these"], [""]]
    found[3]["class"] = "b\n\n99"
    text = subtitles_of([found[0], found[3]])
    assert text == "1\n00:00:00,000 --> 00:00:02,500\na (80 %)\n\n2\n00:00:05,500 --> 00:00:07,000\nb??99 (80 %)\n\n"
    assert clock(3599.96, 1) == "1:00:00.0" and clock(59.94, 1) == "0:59.9" and clock(7325, 2) == "2:02:05.00"


@pytest.mark.parametrize(("classes", "windows"), [(2, 1), (101, 1200)])
def test_pictures_of_any_length(tmp_path, classes, windows):
    generator = np.random.default_rng(0)
    values = generator.dirichlet(np.full(classes, 0.1), windows)
    values[windows // 2 : windows // 2 + windows // 10] = np.nan
    names = [f"Class $_{number} 跳绳" for number in range(classes)]
    write_timeline(tmp_path / "a.png", made_timeline(values, 0.3, 8, 2, names), "a $video_.mkv")
    with Image.open(tmp_path / "a.png") as picture:
        assert 1000 < picture.width < 1700 and 200 < picture.height < 700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json", "a.png", "a.srt"]


def test_the_picture_shows_winners_and_times(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(timeline, "write_png", lambda figure, path: drawn.append(figure))
    made = made_timeline([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.5, 0.5], [np.nan] * 2], 0.6, 2000, 2000)
    timeline.plot_timeline(tmp_path / "t.png", made, segments(made), "title")
    axes, bar = drawn[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", NONE, NOBODY_IN_VIEW]
    assert "0.6" in bar.get_ylabel() and "1:00:00" in [text.get_text() for text in axes.get_xticklabels()]
    shades, *frames = axes.collections
    np.testing.assert_allclose(
        shades.get_array().reshape(2, 5).filled(9), [[0.9, 0.7, 0.2, 0.5, 9], [0.1, 0.3, 0.8, 0.5, 9]]
    )
    bars = [frame.get_paths()[0].get_extents() for frame in frames]
    assert [(bar.x0, bar.x1, int(bar.y0)) for bar in bars] == [
        (0, 2000, 0),
        (2000, 3000, 1),
        (3000, 4000, 2),
        (4000, 5000, 3),
    ]


# ---- what goes wrong ----


def test_a_file_that_ends_early_keeps_what_came_before(data, tmp_path):
    whole = data / "three.mkv"
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    spatial = ("--spatial", data / "colour.pth.tar", *CPU, "--window", 2)
    finished = call_main("predict", cut, *spatial, "--timeline", tmp_path / "t.png")
    assert finished.returncode == 0, finished.stderr
    assert any(word in finished.stdout for word in ("damaged", "cut short"))
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["segments"][0]["class"] == "Red" and 4 < content["segments"][-1]["end"] < 10.6
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"RIFF" + bytes(500))
    finished = call_main("predict", broken, cut, *spatial, "--timeline", tmp_path / "two.png")
    assert finished.returncode == 1 and "broken.avi" in finished.stderr
    assert (tmp_path / "two-cut.png").exists() and not (tmp_path / "two-broken.png").exists()


def test_an_end_that_cannot_be_decoded(data, classifier, monkeypatch):
    def decode(*arguments):
        yield from noise(25)
        raise UserError("damaged: only 25 of 90 frames can be decoded")

    monkeypatch.setattr(timeline, "frames_of", decode)
    result = classify_windows(data / "noise.mkv", alone(classifier, SPATIAL), Plan(1, 1))
    assert result.spans.tolist() == [[0, 10], [10, 20], [15, 25]] and "25 of 90" in result.whole.damage


def test_nobody_all_along(data, tmp_path, monkeypatch):
    empty = Estimator(np.ascontiguousarray, lambda frames: [(frame,) for frame in frames], nobody, {})
    monkeypatch.setattr("prediction.classify.estimator_from_arguments", lambda *args: empty)
    motion = ("--motion", data / "motion.pth.tar", "--model", "openpose", *CPU, "--overlay", tmp_path / "t.mp4")
    finished = call_main("predict", data / "noise.mkv", *motion, "--window", 2, "--timeline", tmp_path / "t.png")
    assert finished.returncode == 0 and "nobody in view: people in 0 of the 47 frames looked at" in finished.stdout
    content = json.loads((tmp_path / "t.json").read_text())
    assert {(window["people"], window["winner"]) for window in content["windows"]} == {(0, "nobody in view")}
    assert content["segments"] == [{"start": 0, "end": 4.7, "class": "nobody in view", "probability": None}]
    assert (tmp_path / "t.srt").read_text() == ""


def test_share_of_frames_with_people(data, classifier):
    people = {number: people_of(np.zeros((4, 4, 3)))[: number > 20] for number in range(1, 48)}
    both = classifier._replace(people=join_frames(people, 47, (40, 52)))
    plan, video = Plan(1, 1), data / "noise.mkv"
    motion = classify_windows(video, alone(both, MOTION_POSE), plan)
    assert motion.people.tolist() == [0, 0, 1, 1, 1]
    shown = motion.whole.window.shown
    assert (len(shown), sum(shown.values())) == (47, 27)
    assert np.isnan(motion.probabilities).all(axis=1).tolist() == [True, True, False, False, False]
    fused, spatial = classify_windows(video, both, plan), classify_windows(video, alone(classifier, SPATIAL), plan)
    same = (fused.probabilities == spatial.probabilities).all(axis=1)
    assert same.tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(fused.whole.logits["motion_pose"], motion.whole.logits["motion_pose"], rtol=1e-6)
