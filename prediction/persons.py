"""Who does what: everyone who is followed for a window's length is classified alone, window by window."""

from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.atomic import write_text
from common.video import rate_of
from fusion.plots import printable, write_png
from pose.keypoints import Keypoints, people_of_frame
from pose.people import follow_people, main_tracks, select_people
from pose.skeleton import NUM_PARTS
from prediction.classify import (
    Classifier,
    Fusion,
    counts_of,
    describe,
    look_at_file,
    print_answer,
    score_windows,
    top_classes,
)
from prediction.overlay import Head
from prediction.timeline import (
    NONE,
    Plan,
    Timeline,
    clock,
    label_time,
    segments,
    timeline_of,
    window_starts,
    windows_of,
)
from training.streams import Window

MOST = 10  # people at a time who are classified, the main ones
MAX_GAP = 15  # frames that a person may be lost for and keep the number: measured in benchmarks/README.md
LEAST_SHARE = 0.25  # of a video shorter than a window, of what a camera showed, and of the frames of a track
BANDS = 12  # people in the picture
COLUMNS = ("person", "start", "end", "left", "top", "right", "bottom", "class", "probability")  # of the table
Path18 = Mapping[int, np.ndarray]  # a person (18, 3) by the number of the frame


class Person(NamedTuple):
    """Someone who was followed: a number, from 1, the main person's first; where; the timeline of that person alone."""

    number: int
    path: Path18
    timeline: Timeline


class Persons(NamedTuple):
    """The people of a video: those who are classified, the keypoints of the `others`, and what is to say of them."""

    window: Window
    found: list[Person]
    others: Keypoints
    notes: list[str]
    damage: str = ""


# ---- from people to answers ----


def classify_persons(path: Path, classifier: Classifier, plan: Plan) -> Persons:
    """Test the streams on each person of a video file alone, see `persons_of`."""
    rate = rate_of(path, classifier.options.frames)
    window, damage = look_at_file(path, classifier)
    return persons_of(window, classifier, plan, rate)._replace(damage=damage)


def persons_of(window: Window, classifier: Classifier, plan: Plan, rate: Fraction) -> Persons:
    """Follow the people of a video, `rate` frames a second, and test the streams on windows of each person alone.

    Windows are those of a `Plan`, counted from where the person is seen first. The windows of all people go through
    the networks together.
    """
    keypoints = window.keypoints
    keypoints = select_people(keypoints, np.flatnonzero((keypoints.keypoints[..., 2] > 0).any(axis=1)))
    length = max(round(Fraction(str(plan.length)) * rate), 1)
    tracks = follow_people(keypoints, MAX_GAP)
    chosen, notes = choose_tracks(keypoints, tracks, min(length, round(LEAST_SHARE * window.num_frames)))
    paths, shown = paths_of(keypoints, tracks), classifier.options.per_person
    windows = {
        track: [
            (span, window_of(paths, track, range(span[0] + 1, span[1] + 1), keypoints.frame_size, shown))
            for span in _spans(paths[track], length, plan, rate)
        ]
        for track in chosen
    }
    windows = {track: each for track, each in windows.items() if each}
    others = select_people(keypoints, np.isin(tracks, list(windows), invert=True))
    return Persons(window, classify_windows_of(windows, paths, classifier, rate), others, notes)


def classify_windows_of(
    windows: Mapping[int, list[tuple[tuple[int, int], Window]]],
    paths: Mapping[int, Path18],
    classifier: Classifier,
    rate: Fraction,
) -> list[Person]:
    """Test the streams on the windows of each track, with their spans, all together; the main person's come first."""
    scores = iter(score_windows([window for each in windows.values() for _, window in each], classifier))
    found = []
    for number, (track, each) in enumerate(windows.items(), 1):
        logits = list(islice(scores, len(each)))
        rows = [(span, classifier.fusion.fuse(of)[1], 1.0, of) for (span, _), of in zip(each, logits, strict=True)]
        seen = {frame: person[None] for frame, person in paths[track].items()}
        whole = Window(each[-1][0][1] - each[0][0][0], {}, seen, each[0][1].frame_size)
        found.append(Person(number, paths[track], timeline_of(rows, whole, classifier.fusion, rate)))
    return found


def choose_tracks(keypoints: Keypoints, tracks: np.ndarray, least: int) -> tuple[list[int], list[str]]:
    """The tracks of at least so many frames, the main one first, `MOST` at a time; notes on those who are left out.

    A track is as long as from the first to the last of its frames.
    """
    crowd, chosen, left_out = np.zeros(keypoints.num_frames, int), [], 0
    for track in main_tracks(keypoints, tracks).tolist():
        frames = keypoints.frame[tracks == track]
        length = frames[-1] - frames[0] + 1 if len(frames) else 0
        if length < max(least, 1) or len(frames) < LEAST_SHARE * length:
            continue
        span = slice(frames[0] - 1, frames[-1])
        if crowd[span].max() >= MOST:
            left_out += 1
            continue
        crowd[span] += 1
        chosen.append(track)
    note = f"more than {MOST} people at a time: of {len(chosen) + left_out}, the {len(chosen)} main ones"
    return chosen, [note] if left_out else []


def paths_of(keypoints: Keypoints, tracks: np.ndarray) -> Mapping[int, Path18]:
    """The people of each track."""
    paths: dict[int, dict[int, np.ndarray]] = {track: {} for track in np.unique(tracks).tolist()}
    for track, frame, person in zip(tracks.tolist(), keypoints.frame.tolist(), keypoints.keypoints, strict=True):
        paths[track][frame] = person
    return paths


def _spans(path: Path18, length: int, plan: Plan, rate: Fraction) -> Iterator[tuple[int, int]]:
    """The windows of a person: the first frame of each, from 0, and the one after its last."""
    frames = range(min(path), max(path) + 1)
    for _, held in windows_of(frames, length, window_starts(plan, rate)):
        if sum(frame in path for frame in held) >= LEAST_SHARE * len(held):
            yield held[0] - 1, held[-1]


def window_of(
    paths: Mapping[int, Path18], track: int, frames: range, frame_size: tuple[int, int], how: str | None = None
) -> Window:
    """Those of a video's `frames` with the person of one track, alone or as a "pair" with the nearest one."""
    shown = [paths[track]]
    if how == "pair" and (other := nearest(paths, track, frames)) is not None:
        shown.append(paths[other])
    people = {}
    for number, frame in enumerate(frames, 1):
        here = [path[frame] for path in shown if frame in path]
        people[number] = np.stack(here) if here else np.zeros((0, NUM_PARTS, 3), np.float32)
    return Window(len(frames), {}, people, frame_size)


def nearest(paths: Mapping[int, Path18], track: int, frames: range) -> int | None:
    """The track whose person is nearest in the mean over the frames that show both, at least half of those of `track`.

    The distance is that of the middles of their parts, relative to the frame.
    """
    own = {frame: _middle(paths[track][frame]) for frame in frames if frame in paths[track]}
    distances = {}
    for other, path in paths.items():
        apart = [np.linalg.norm(place - _middle(path[frame])) for frame, place in own.items() if frame in path]
        if other != track and len(apart) >= max(len(own) / 2, 1):
            distances[other] = float(np.mean(apart))
    return min(distances, key=distances.__getitem__, default=None)


def _middle(person: np.ndarray) -> np.ndarray:
    return person[person[:, 2] > 0][:, :2].mean(axis=0) if (person[:, 2] > 0).any() else np.full(2, np.inf)


# ---- what is told ----


def box_of(path: Path18, start: int, end: int) -> list[float]:
    """Left, top, right, bottom of a person's parts in the frames after `start` up to `end`, in [0, 1] of the frame."""
    people = np.stack([path[frame] for frame in range(start + 1, end + 1) if frame in path])
    places = people[people[..., 2] > 0][:, :2]
    return [round(float(value), 4) for value in (*places.min(axis=0), *places.max(axis=0))]


def describe_persons(persons: Persons, fusion: Fusion) -> dict:
    """The people of a video in plain values.

    Of each: the answer for all windows together as `describe` gives it, when and where the person was seen, `segments`,
    and the winner of each window.
    """
    told = []
    for number, path, timeline in persons.found:
        windows = [
            {"start": round(start / float(timeline.rate), 3), "end": round(end / float(timeline.rate), 3)}
            | {"box": box_of(path, start, end), "class": winner, "probability": round(float(values.max()), 4)}
            for (start, end), winner, values in zip(
                timeline.spans.tolist(), timeline.winners, timeline.probabilities, strict=True
            )
        ]
        scores = describe(timeline.whole, fusion._replace(threshold=timeline.minimum))
        person: dict = {"person": number, "start": windows[0]["start"], "end": windows[-1]["end"]}
        person |= {"box": box_of(path, 0, persons.window.num_frames)}
        person |= {name: scores[name] for name in ("answer", "fused", "streams", "notes")}
        told.append(person | {"segments": segments(timeline), "windows": windows})
    nobody = [] if told else ["nobody is followed for long enough"]
    return counts_of(persons.window, persons.damage) | {"notes": persons.notes + nobody, "persons": told}


def rows_of_persons(result: dict) -> list[list[str]]:
    """Who does what, for a table of a `describe_persons` result: person, from, to, answer, percent."""
    return [
        [str(person["person"]), clock(person["start"], 1), clock(person["end"], 1), *words_of(person)]
        for person in result["persons"]
    ]


def words_of(person: dict) -> tuple[str, str]:
    """The answer of a person, or that it is none, and the percentage of the likeliest class."""
    ((likeliest, probability),) = top_classes(person["fused"], 1)
    return person["answer"] or f"{NONE} ({likeliest}?)", f"{100 * probability:.1f}"


def print_persons(result: dict) -> None:
    """Print who does what."""
    print_answer(result, ("  person", "from", "to", "answer", "probability, %"), rows_of_persons(result))


def write_windows(path: Path, result: dict) -> None:
    """Write the windows of all people of a `describe_persons` result as CSV, see `COLUMNS`."""
    rows = [
        (person["person"], window["start"], window["end"], *window["box"], window["class"], window["probability"])
        for person in result["persons"]
        for window in person["windows"]
    ]
    write_text(path, pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n"))


def heads_of(persons: Persons) -> dict[int, list[Head]]:
    """What the overlay shows of each frame: the people, numbered, with the winner of the moment's window; others."""
    heads: dict[int, list[Head]] = {frame: [] for frame in range(1, persons.window.num_frames + 1)}
    for frame in np.unique(persons.others.frame).tolist():
        heads[frame] = [Head(person) for person in people_of_frame(persons.others, frame)]
    for number, path, timeline in persons.found:
        texts = [
            label_of(winner, float(values.max()))
            for winner, values in zip(timeline.winners, timeline.probabilities, strict=True)
        ]
        for (frame, person), window in zip(path.items(), timeline.windows_at(path), strict=True):
            heads[frame].append(Head(person, number, texts[window]))
    return heads


def label_of(winner: str, probability: float) -> str:
    """What stands at a head."""
    return "none of these" if winner == NONE else f"{winner} {100 * probability:.0f} %"


def write_persons_timeline(path: Path, persons: Persons, title: str) -> None:
    """Write a PNG with a band for each person, the main one's on top: the winner of each moment in a colour."""
    shown = persons.found[:BANDS]
    found = [segments(person.timeline) for person in shown]
    won: Counter[str] = Counter()
    for segment in (segment for band in found for segment in band):
        won[segment["class"]] += segment["end"] - segment["start"]
    names = [name for name, _ in won.most_common() if name != NONE]
    pale_last = (*range(0, 20, 2), *range(1, 20, 2))
    colors: dict = dict(zip(names, map(colormaps["tab20"], pale_last), strict=False)) | {NONE: "0.8"}
    figure = Figure(figsize=(14, 1.6 + 0.5 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for row, band in enumerate(found):
        for segment in band:
            span = segment["start"], segment["end"] - segment["start"]
            color = colors.get(segment["class"], "0.5")
            axes.broken_barh([span], (row + 0.1, 0.8), color=color, edgecolor="white")
    end = persons.window.num_frames / float(shown[0].timeline.rate)
    axes.set_yticks(np.arange(len(shown)) + 0.5, [f"person {person.number}" for person in shown])
    axes.set(xlim=(0, end), ylim=(len(shown), 0), title=printable(title, 100))
    label_time(axes, end)
    key = [Patch(color=color, label=printable(name, 30)) for name, color in colors.items() if won[name]]
    figure.legend(handles=key, loc="outside right upper", frameon=False)
    write_png(figure, path)
