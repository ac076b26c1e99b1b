"""Classify what a camera shows, as it shows it: the newest frames are searched for people, a sliding window scored.

Frames that come while the pose network works are skipped, never queued. One thread reads the source, the caller's
finds people, and a third one scores windows, so that frames are handled while the streams work.
"""

import contextlib
import csv
import io
import queue
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np

from common.cli import UserError, width
from common.video import resize_short_side, through_jpeg
from pose.estimators import Estimator
from pose.pipeline import fill_in
from prediction.capture import Capture, Captured, Picture
from prediction.classify import NOBODY_IN_VIEW, Classifier, Prediction, complete_people, describe, score, top_classes
from prediction.timeline import Plan
from training.streams import STREAMS, Window
from utils import StopRequest, catch_stop_signals

# Positions that a window is tested at: windows of 4 seconds, one every second, still vote over 20 of each 4 seconds.
CLIPS = 5


class Handled(NamedTuple):
    """A frame that was looked at: its time, its picture as in training, its people (None: nobody was looked for)."""

    time: float
    picture: np.ndarray
    people: np.ndarray | None


class Classified(NamedTuple):
    """A window's scores, and the time of its newest frame; `handled` of `captured` frames had been handled then."""

    prediction: Prediction
    time: float  # of time.monotonic
    seconds: float  # since the first frame
    frames: int  # handled ones in the window
    fps: float  # of those
    handled: int
    captured: int


# ---- frames and windows ----


def handle(frame: Captured, classifier: Classifier) -> Handled:
    """The frame as the streams were trained on it, and its people, found on that."""
    settings, estimator = classifier.options.frames, classifier.people
    rgb = through_jpeg(resize_short_side(frame.picture(), settings.short_side), settings.quality)
    return Handled(frame.time, rgb, estimator([rgb])[0] if isinstance(estimator, Estimator) else None)


def resample(handled: Sequence[Handled], rate: float) -> Window:
    """The window from the first to the last handled frame at `rate` frames a second.

    Each handled frame counts for the nearest moment, of several the nearest one; a moment without one gets the picture
    of the handled frame that is nearest, and people between those of the one before and after, as if these had been
    estimated and the others not (`fill_in`).
    """
    nearest: dict[int, Handled] = {}
    moments = [1 + (frame.time - handled[0].time) * rate for frame in handled]
    for moment, frame in sorted(zip(moments, handled, strict=True), key=lambda pair: -abs(pair[0] - round(pair[0]))):
        nearest[round(moment)] = frame  # the one that comes last is the nearest
    window = Window(max(nearest), frame_size=handled[0].picture.shape[:2])
    for number in range(1, window.num_frames + 1):
        owner = min(nearest, key=lambda known: (abs(known - number), known))
        window.pictures[number] = nearest[owner].picture
    if handled[0].people is not None:
        people = {number: frame.people for number, frame in nearest.items()}
        window.people = dict(enumerate(fill_in(people, window.frame_size), 1))
    return window


def classify_window(handled: Sequence[Handled], classifier: Classifier) -> Prediction:
    """Score handled frames, resampled to the rate of those that the streams were trained on."""
    options = classifier.options
    window = resample(handled, float(options.frames.rate()))
    window.people = complete_people(window.people, window, 1, options.cleaning)
    return Prediction(score(window, classifier), window)


# ---- the loop ----


def watch(capture: Capture, classifier: Classifier, plan: Plan, stop: StopRequest) -> Generator[Classified, None, None]:
    """Score the last seconds as the `plan` says, or as often as the machine can, until the source ends.

    The window is shorter at the start, and starts anew when the source was lost or its frames change size. What is
    being scored when the source ends or `stop` is requested comes last. Wrap it in `contextlib.closing`.
    """
    recent: deque[Handled] = deque()
    pending: Future | None = None
    handled = connection = 0
    first = due = last = None
    step = 1 / float(classifier.options.frames.rate())

    def classify() -> Future:
        span = recent[-1].time - recent[0].time
        rate = (len(recent) - 1) / span if span else 0.0
        facts = (recent[-1].time, recent[-1].time - first, len(recent), rate, handled, capture.count)
        frames = tuple(recent)
        return pool.submit(lambda: Classified(classify_window(frames, classifier), *facts))

    with capture, ThreadPoolExecutor(1) as pool:
        while not (capture.ended or stop.signum):
            captured = capture.newest()
            if captured:
                frame = handle(captured, classifier)
                if recent and (captured.connection, frame.picture.shape) != (connection, recent[-1].picture.shape):
                    recent.clear()
                if not recent:
                    connection, due = captured.connection, frame.time + plan.stride
                    first = frame.time if first is None else first
                handled += 1
                recent.append(frame)
                while recent[0].time < frame.time - max(plan.length - step, 0):
                    recent.popleft()
            if pending and pending.done():
                yield pending.result()
                pending = None
            if recent and not pending and recent[-1].time >= due:
                pending, last = classify(), recent[-1].time
                due = max(due + plan.stride, last)
        if pending:
            yield pending.result()
        if capture.ended and recent and recent[-1].time != last:
            yield classify().result()


def run_live(source: str, classifier: Classifier, plan: Plan, topk: int, csv: Path | None) -> None:
    """Print what is seen until the source ends, or SIGINT or SIGTERM comes; `csv` gets a line per classification."""
    fusion = classifier.fusion
    classifier = classifier._replace(options=replace(classifier.options, clips=CLIPS))
    screen, latencies, seen = Screen(), [], None
    with catch_stop_signals() as stop, open_table(csv, fusion.classes) as write:
        capture = Capture(source, report=screen.notice)
        with closing(screen), closing(watch(capture, classifier, plan, stop)) as watched:
            for seen in watched:
                result = describe(seen.prediction, fusion)
                latencies.append(time.monotonic() - seen.time)
                screen.show(describe_in_a_line(seen, result, latencies[-1], topk))
                write(table_row(seen, result, latencies[-1], fusion.classes))
    if seen is None:
        print(f"{capture.name}: ended before anything could be classified")
        return
    skipped = 100 * (1 - seen.handled / seen.captured)
    print(
        f"{capture.name}: {seen.seconds:.1f} s, {seen.captured} frames, {seen.handled} handled "
        f"({skipped:.0f} % skipped), {len(latencies)} times classified, "
        f"latency {np.mean(latencies):.2f} s on average, {max(latencies):.2f} s at most"
    )


# ---- what is told ----


COLUMNS = ("time", "seconds", "frames", "fps", "people", "latency", "class", "probability")


class Screen:
    """Where lines are shown: on a terminal each in the place of the one before, else one below the other."""

    def __init__(self) -> None:
        self.in_place, self.begun = sys.stdout.isatty(), False

    def show(self, line: str) -> None:
        """Show a line, on a terminal cut to its width."""
        if not self.in_place:
            print(line, flush=True)
            return
        while width(line) >= shutil.get_terminal_size().columns:
            line = line[:-1]
        print(f"\r{line}\x1b[K", end="", flush=True)
        self.begun = True

    def notice(self, line: str) -> None:
        """Print a line on stderr, below what is shown."""
        self.close()
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave what is shown where it is."""
        if self.begun:
            print(flush=True)
        self.begun = False


def people_share(result: dict) -> float | None:
    """Share of the window's frames with people; None if nobody is looked for."""
    return result["frames_with_people"] / result["frames_looked_at"] if result["frames_looked_at"] else None


def describe_in_a_line(seen: Classified, result: dict, latency: float, topk: int) -> str:
    """The best classes in percent, the streams' own best, and how the machine keeps up; `result` is of `describe`."""
    best = ", ".join(f"{name} {100 * value:.1f}" for name, value in top_classes(result["fused"], topk))
    streams = result["streams"] if len(result["streams"]) > 1 else {}
    own = "".join(
        f" | {stream}: {name} {100 * value:.1f}"
        for stream, scores in streams.items()
        for name, value in top_classes(scores, 1)
    )
    if not best:
        best = NOBODY_IN_VIEW
    elif result["answer"] is None:
        best = f"none of these: {best}"
    return f"{seen.seconds:6.1f} s  {describe_pace(seen, result, latency)}  {best}{own}"


def describe_pace(seen: Classified, result: dict, latency: float) -> str:
    """How the machine keeps up, and in how much of the window people were found, if they were looked for."""
    share = people_share(result)
    people = "" if share is None else f"  people {100 * share:.0f} %"
    return f"{seen.fps:4.1f} fps  latency {latency:.1f} s{people}"


@contextlib.contextmanager
def open_table(path: Path | None, classes: Sequence[str]) -> Iterator[Callable[[Sequence], object]]:
    """Yield what appends a row, at once and whole, to the CSV `path`, which may hold some already (None: no table).

    Raises `UserError` if what it holds has other columns.
    """
    if path is None:
        yield lambda row: None
        return
    header = _csv_line([*COLUMNS, *classes])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        file.seek(0)
        if file.read(len(header)) not in (b"", header):
            raise UserError(f"--csv {path}: is there and has other columns; remove it or give another name")
        if file.tell() == 0:
            file.write(header)
        try:
            yield lambda row: file.write(_csv_line(row))
        except OSError as error:
            error.filename = error.filename or str(path)  # "no space left" should say where
            raise


def table_row(seen: Classified, result: dict, latency: float, classes: Sequence[str]) -> list:
    """A window's values for the table: clock time of its newest frame, …, the fused probability of every class."""
    captured = datetime.fromtimestamp(time.time() - (time.monotonic() - seen.time)).astimezone()
    share, probabilities = people_share(result), result["fused"]["probabilities"]
    numbers = (seen.fps, "" if share is None else share, latency)
    row = [captured.isoformat(timespec="milliseconds"), f"{seen.seconds:.3f}", seen.frames]
    row += [value if value == "" else f"{value:.3f}" for value in numbers]
    if not probabilities:
        return [*row, NOBODY_IN_VIEW, *[""] * (1 + len(classes))]
    values = [max(probabilities.values()), *(probabilities[name] for name in classes)]
    return [*row, result["answer"] or "none", *(f"{value:.6f}" for value in values)]


def _csv_line(values: Sequence) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "replace")


# ---- the camera of a browser ----


PAUSE = 5.0  # seconds without a frame after which the camera counts as switched off


class BrowserCamera:
    """One viewer's camera: `show` its frames as they come, `news` tells what was seen in the last seconds.

    Frames that come while one is handled are skipped. Its thread ends `PAUSE` seconds after the last frame, at `end`,
    or when `stop` is requested, which several viewers may share.
    """

    def __init__(self, classifier: Classifier, plan: Plan, stop: StopRequest):
        self.frames: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self.seen: queue.SimpleQueue[tuple[Classified, dict, float] | UserError] = queue.SimpleQueue()
        self.thread = Thread(target=self._watch, args=(classifier, plan, stop), daemon=True)
        self.thread.start()

    @property
    def ended(self) -> bool:
        """Whether its thread ended, so that frames need a new one."""
        return not self.thread.is_alive()

    def show(self, rgb: np.ndarray) -> None:
        """Take the newest frame, uint8 (H, W, 3)."""
        self.frames.put(rgb)

    def news(self) -> tuple[Classified, dict, float] | None:
        """What was seen last, its `describe`d result and latency in seconds; None if it was told already.

        Raises the `UserError` that ended it.
        """
        last = None
        with contextlib.suppress(queue.Empty):
            while True:
                last = self.seen.get_nowait()
        if isinstance(last, UserError):
            raise last
        return last

    def end(self) -> None:
        """End its thread soon."""
        self.frames.put(None)

    def _pictures(self, source: str) -> Generator[Picture, None, None]:
        """The frames when they come; `Capture` keeps the newest one only."""
        with contextlib.suppress(queue.Empty):
            while (rgb := self.frames.get(timeout=PAUSE)) is not None:
                yield partial(np.asarray, rgb)

    def _watch(self, classifier: Classifier, plan: Plan, stop: StopRequest) -> None:
        if not any(STREAMS[name].of_people for name in classifier.models):
            classifier = classifier._replace(people=None)  # who would be found for nothing
        try:
            capture = Capture("the browser's camera", self._pictures)
            with closing(watch(capture, classifier, plan, stop)) as watched:
                for seen in watched:
                    result = describe(seen.prediction, classifier.fusion)
                    self.seen.put((seen, result, time.monotonic() - seen.time))
        except UserError as error:
            self.seen.put(error)
