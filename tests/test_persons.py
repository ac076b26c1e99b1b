"""predict.py --per-person: each person's answer is that of the person alone, in every output."""

import json
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from benchmarks.pose import standing_people
from common.records import FrameSettings
from pose.estimators import Estimator
from pose.keypoints import FILE_NAME, Keypoints, join_frames, save_keypoints
from pose.people import Follower
from prediction.classify import Classifier, Options, score
from prediction.live import Handled, Watcher, persons_in
from prediction.overlay import PEOPLE_COLORS, Head, draw_heads
from prediction.persons import MOST, heads_of, nearest, paths_of, persons_of
from prediction.timeline import Plan
from tests.helpers import assert_error, call_main, moving, read_video, write_video
from tests.prediction_data import CLASSES, classifier_of, write_checkpoint, write_skeleton_checkpoint
from training.streams import MOTION_POSE, SKELETON, Window
from utils import load_checkpoint, save_checkpoint

RATE = Fraction(10)
SIZE = (48, 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Random networks of both streams of people, whose logits tell one person from another."""
    root = tmp_path_factory.mktemp("persons")
    write_skeleton_checkpoint(root / "skeleton.pth.tar")
    write_checkpoint(root / "motion.pth.tar", 30, 2)
    trained = load_checkpoint(root / "motion.pth.tar") | {"options": {"crop": "people"}}
    save_checkpoint(root / "motion.pth.tar", trained)
    write_video(root / "yard.mkv", moving(60, SIZE[::-1]), "ffv1", rate=int(RATE))
    return root


@pytest.fixture(scope="module")
def classifier(data) -> Classifier:
    return classifier_of({MOTION_POSE: data / "motion.pth.tar", SKELETON: data / "skeleton.pth.tar"})


def person(number: int, frame: int) -> np.ndarray:
    """One of people who stand side by side and wave, each at a pace of their own; the first one is the largest."""
    place = standing_people(1)[0].astype(np.float32)
    place[:, :2] = (place[:, :2] - 0.5) * (0.3 - 0.02 * number) + (0.1 + 0.8 * (number * 0.37 % 1), 0.5)
    place[(4, 7), 1] += 0.1 * np.sin(frame * (0.3 + number))
    return place


def crowd(seen: dict[int, range], num_frames: int = 60) -> Window:
    """A window that shows these people in these frames, in changing order."""
    people = {}
    for frame in range(1, num_frames + 1):
        here = [person(number, frame) for number, frames in seen.items() if frame in frames]
        people[frame] = np.array(here[:: (-1) ** frame], np.float32).reshape(-1, 18, 3)
    return Window(num_frames, {}, people, SIZE)


def test_everyone_scores_as_if_alone(classifier):
    """Also who comes later and goes earlier; the windows are those of the time that the person is there."""
    seen = {0: range(1, 61), 1: range(11, 61), 2: range(1, 51)}
    persons = persons_of(crowd(seen), classifier, Plan(4, 1), RATE)
    assert [each.number for each in persons.found] == [1, 2, 3] and not persons.notes
    for each, (number, frames) in zip(persons.found, seen.items(), strict=True):
        assert set(each.path) == set(frames)
        assert np.array_equal(each.path[20], person(number, 20))
        starts = [frames[0] - 1 + start for start in range(0, len(frames) - 39, 10)]
        assert each.timeline.spans.tolist() == [[start, start + 40] for start in starts]
        alone = [Window(40, {}, {i: person(number, s + i)[None] for i in range(1, 41)}, SIZE) for s in starts]
        expected = [score(window, classifier) for window in alone]
        for name in expected[0]:
            mean = np.mean([logits[name] for logits in expected], axis=0)
            assert np.ptp(mean) > 0.1
            assert each.timeline.whole.logits[name] == pytest.approx(mean, abs=1e-3)
        fused = [classifier.fusion.fuse(logits)[1] for logits in expected]
        assert each.timeline.probabilities == pytest.approx(np.array(fused), abs=1e-4)
    means = np.array([each.timeline.whole.logits["skeleton"] for each in persons.found])
    assert np.abs(np.diff(means, axis=0)).max() > 0.02  # people are told apart


def test_who_comes_and_goes_gets_no_answer_and_of_thirty_the_main_ones_do(classifier):
    brief = crowd({0: range(1, 61), 1: range(1, 15)})
    flicker = {i: np.stack([person(n, i) for n in range(1 + (i % 8 == 0))]) for i in range(1, 61)}
    persons = persons_of(Window(60, {}, flicker, SIZE), classifier, Plan(4, 1), RATE)
    assert [len(each.path) for each in persons.found] == [60]
    assert len(persons.others.frame) == sum(map(len, flicker.values())) - 60
    heads = heads_of(persons)
    assert [sorted(head.number for head in heads[frame]) for frame in (7, 16)] == [[1], [0, 1]]
    # Who is lost for up to 15 frames keeps the number.
    for lost, count in ((15, 1), (16, 2)):
        seen = {i: brief.people[1][:0] if 20 < i <= 20 + lost else person(0, i)[None] for i in range(1, 61)}
        assert len(persons_of(Window(60, {}, seen, SIZE), classifier, Plan(1, 1), RATE).found) == count
    # In a video shorter than a window a quarter of its frames suffices.
    assert len(persons_of(brief, classifier, Plan(10, 1), RATE).found) == 1
    assert len(persons_of(brief, classifier, Plan(1.4, 1), RATE).found) == 2

    rows = standing_people(1)[0] * np.float32(0.03) + np.zeros((30, 1, 1), np.float32)
    rows[..., 2] = 1
    rows[..., :2] += np.stack(np.meshgrid(np.arange(6) / 6, np.arange(5) / 5), -1).reshape(30, 1, 2)
    persons = persons_of(Window(5, {}, dict.fromkeys(range(1, 6), rows), SIZE), classifier, Plan(), RATE)
    assert len(persons.found) == MOST and len(persons.others.frame) == 5 * (30 - MOST)
    assert persons.notes == [f"more than {MOST} people at a time: of 30, the {MOST} main ones"]


def test_pairs_are_with_the_nearest(classifier):
    people = crowd({0: range(1, 61), 1: range(1, 61), 2: range(1, 61)})
    keypoints = people.keypoints
    tracks = np.array([int(np.abs(place[0, 0] - np.array([person(n, 1)[0, 0] for n in range(3)])).argmin())
                       for place in keypoints.keypoints])  # fmt: skip
    paths = paths_of(keypoints, tracks)
    places = [person(number, 1)[:, 0].mean() for number in range(3)]
    for number in range(3):
        others = sorted((abs(place - places[number]), other) for other, place in enumerate(places))
        assert nearest(paths, number, range(1, 41)) == others[1][1]
    assert nearest({0: paths[0], 1: {1: paths[1][1]}}, 0, range(1, 41)) is None
    paired = classifier._replace(options=Options(per_person="pair"))
    found = persons_of(people, paired, Plan(6, 1), RATE).found
    other = nearest(paths, 0, range(1, 61))
    both = Window(60, {}, {i: np.stack([person(0, i), person(other, i)]) for i in range(1, 61)}, SIZE)
    for name, logits in score(both, classifier).items():
        assert found[0].timeline.whole.logits[name] == pytest.approx(logits, abs=1e-3)


# ---- before a camera ----


def handled(window: Window, first: int = 1, last: int = 60) -> list[Handled]:
    follower, picture = Follower(SIZE), np.zeros((*SIZE, 3), np.uint8)
    shown = {i: window.people[i] for i in range(first, last + 1)}
    return [Handled(i / 10, picture, people, follower.follow(i, people)) for i, people in shown.items()]


def test_a_camera_sees_what_a_file_shows(classifier):
    classifier = classifier._replace(options=Options(FrameSettings(fps=RATE)))
    shown = crowd({0: range(1, 61), 1: range(11, 61), 2: range(1, 14)})
    expected = persons_of(shown, classifier, Plan(6, 6), RATE)
    persons, tracks = persons_in(handled(shown), classifier)
    assert tracks == [1, 2] and len(expected.found) == len(persons.found) == 2
    for mine, theirs in zip(persons.found, expected.found, strict=True):
        assert mine.path.keys() == theirs.path.keys()
        assert mine.timeline.spans.tolist() == theirs.timeline.spans.tolist()
        for name, logits in theirs.timeline.whole.logits.items():
            assert mine.timeline.whole.logits[name] == pytest.approx(logits, abs=1e-3)


def test_numbers_stay_with_people(classifier):
    """From window to window, with somebody who comes, and the main one who goes."""
    watcher = Watcher(classifier._replace(options=Options(FrameSettings(fps=RATE), per_person="alone")), Plan(2, 1))
    frames = handled(crowd({1: range(1, 61), 0: range(1, 31), 2: range(25, 61)}))
    seen = []
    for last in (20, 40, 60):
        watcher.recent.extend(frames[last - 20 : last])
        result = watcher.result_of(frames[last - 20 : last])
        seen.append({each["person"]: each["box"] for each in result["persons"]})
        heads = {head.number: (head.person, head.text) for head in watcher.heads}
        assert set(heads) - {0} <= set(seen[-1])
    assert [list(each) for each in seen] == [[1, 2], [1, 2, 3], [2, 3]]
    middles = [[(box[0] + box[2]) / 2 for box in each.values()] for each in seen]
    assert middles[0] == pytest.approx(middles[1][:2], abs=0.02) and middles[1][1:] == pytest.approx(
        middles[2], abs=0.02
    )
    assert heads[3][1].split(" ")[-1] == "%" and np.array_equal(heads[3][0], person(2, 60))


def test_who_is_cleaned_away_before_a_camera_has_no_answer(classifier):
    """`--min-score` is about the parts' scores, which are half as high for the second person."""
    shown = crowd({0: range(1, 61), 1: range(1, 61)})
    frames = [
        frame._replace(people=np.where(frame.tracks[:, None, None] == 1, frame.people * (1, 1, 0.5), frame.people))
        for frame in handled(shown)
    ]
    cleaning = {"min_score": 0.8, "max_people": None, "smooth": None}
    watcher = Watcher(
        classifier._replace(options=Options(FrameSettings(fps=RATE), cleaning, per_person="alone")), Plan(6, 1)
    )
    watcher.recent.extend(frames)
    result = watcher.result_of(frames)
    assert [each["person"] for each in result["persons"]] == [1]
    assert sorted(head.number for head in watcher.heads) == [0, 1]


def test_live_script(data, tmp_path, monkeypatch):
    people = crowd({0: range(1, 21), 1: range(1, 21)}, 20).people
    write_video(tmp_path / "short.mkv", moving(20, SIZE[::-1]), "ffv1", rate=int(RATE))
    found = iter(people.values())
    estimator = Estimator(lambda frame: frame, list, lambda *output: next(found), {"model": "fake"})
    monkeypatch.setattr("prediction.classify.estimator_from_arguments", lambda *args: estimator)
    options = ("--per-person", "--window", 1, "--device", "cpu", "--no-amp", "--csv", tmp_path / "seen.csv")
    finished = call_main("predict", "--live", tmp_path / "short.mkv", "--skeleton", data / "skeleton.pth.tar", *options)
    assert finished.returncode == 0, finished.stderr
    last = pd.read_csv(tmp_path / "seen.csv").iloc[-2:]
    assert last["person"].tolist() == [1, 2] and (last["probability"] == last[CLASSES].max(axis=1)).all()
    assert last["left"].tolist() == pytest.approx([person(n, 1)[:, 0].min() for n in (0, 1)], abs=0.01)
    assert f", 2 {last['class'].iloc[1]} {100 * last['probability'].iloc[1]:.1f}" in finished.stdout


# ---- what is written ----


@pytest.fixture
def poses(data, tmp_path) -> Keypoints:
    keypoints = crowd({0: range(1, 61), 1: range(11, 61)}).keypoints
    (tmp_path / "poses/yard").mkdir(parents=True)
    save_keypoints(tmp_path / "poses/yard" / FILE_NAME, *vars(keypoints).values())
    return keypoints


def test_script(data, tmp_path, poses):
    files = {name: tmp_path / f"out.{end}" for name, end in (("overlay", "mp4"), ("csv", "csv"), ("timeline", "png"))}
    outputs = [part for name, file in files.items() for part in (f"--{name}", file)]
    streams = ("--skeleton", data / "skeleton.pth.tar", "--keypoints", tmp_path / "poses", "--threshold", 0.4)
    common = ("--per-person", "--json", tmp_path / "out.json", "--device", "cpu", "--no-amp", *outputs)
    finished = call_main("predict", data / "yard.mkv", *common, *streams)
    assert finished.returncode == 0, finished.stderr
    (video,) = json.loads((tmp_path / "out.json").read_text())["videos"]
    assert [(each["person"], each["start"], each["end"]) for each in video["persons"]] == [(1, 0, 6), (2, 1, 6)]
    table = pd.read_csv(files["csv"])
    rows = [(each["person"], *window.values()) for each in video["persons"] for window in each["windows"]]
    assert len(table) == len(rows) == 5
    for (number, start, end, box, winner, probability), row in zip(rows, table.itertuples(index=False), strict=True):
        assert (number, start, end, *box, winner) == tuple(row)[:8] and probability == row.probability
        shown = [person(number - 1, frame)[:, :2] for frame in range(int(10 * start) + 1, int(10 * end) + 1)]
        assert box == pytest.approx([*np.min(shown, (0, 1)), *np.max(shown, (0, 1))], abs=1e-3)
    for each in video["persons"]:
        likeliest = next(iter(each["fused"]["probabilities"].items()))
        assert each["answer"] == (likeliest[0] if likeliest[1] >= 0.4 else None)
        assert any(line.split()[:3] == [str(each["person"]), f"0:0{each['start']:.1f}", "0:06.0"]
                   for line in finished.stdout.splitlines())  # fmt: skip
    assert len(read_video(files["overlay"])[0]) == 60
    assert files["timeline"].read_bytes()[:4] == b"\x89PNG"


def test_mistakes(data, tmp_path, poses):
    skeleton = ("--skeleton", data / "skeleton.pth.tar")
    each = ("--per-person", "--device", "cpu", "--no-amp")
    for given in (("--motion", data / "motion.pth.tar"), (*skeleton, "--spatial", data / "motion.pth.tar")):
        assert_error(call_main("predict", data / "yard.mkv", *each, *given), "--per-person", "--skeleton CHECKPOINT")
    assert_error(call_main("predict", data / "yard.mkv", *skeleton, "--csv", tmp_path / "a.csv"), "--per-person")
    nobody = join_frames({1: np.zeros((0, 18, 3), np.float32)}, 60, SIZE)
    save_keypoints(tmp_path / "poses/yard" / FILE_NAME, *vars(nobody).values())
    picture = tmp_path / "none.png"
    arguments = (*each, *skeleton, "--keypoints", tmp_path / "poses", "--timeline", picture)
    finished = call_main("predict", data / "yard.mkv", *arguments)
    assert finished.returncode == 0 and "nobody is followed" in finished.stdout and not picture.exists()


def test_labels_of_six_people_cover_no_other():
    frame = np.full((240, 320, 3), 90, np.uint8)
    crowded = [person(0, 1) * np.array((0.5, 1, 1), np.float32) + np.float32([0.03 * n, 0, 0]) for n in range(6)]
    picture = np.asarray(draw_heads(frame, [Head(each, n, "Handstand 87 %") for n, each in enumerate(crowded, 1)]))
    for color in PEOPLE_COLORS[:6]:
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        same = (picture == rgb).all(axis=2)
        full = same.sum(axis=1) > 60  # rows that cross a label
        assert full.sum() >= 8
