"""Classify what a camera shows, as it shows it: the newest frames are searched for people, a sliding window scored.

Frames that come while the pose network works are skipped, never queued. One thread reads the source, the caller's
finds people, and a third one scores windows, so that frames are handled while the streams work.
"""

import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.frame_settings import FrameSettings
from common.images import decode_image
from common.video import encode_jpeg, resize_short_side
from network import Model
from pose.estimators import Estimator
from pose.pipeline import fill_in
from prediction.capture import Capture, Captured
from prediction.classify import Options, Poses, Prediction, complete_people, score_frames
from prediction.live_output import Classified, Screen, describe_in_a_line, open_table, table_row
from prediction.prepare import Classifier
from prediction.results import describe
from prediction.timeline import Plan
from utils import StopRequest, catch_stop_signals

# Positions that a window is tested at: windows of 4 seconds, one every second, still vote over 20 of each 4 seconds.
CLIPS = 5


class Handled(NamedTuple):
    """A frame that was looked at: its time, JPEG file and (height, width), its people (None: not looked for)."""

    time: float
    jpeg: bytes
    size: tuple[int, int]
    people: np.ndarray | None


# ---- frames and windows ----


def handle(frame: Captured, estimator: Estimator | None, settings: FrameSettings) -> Handled:
    """The frame as the streams were trained on it, and its people, found on that."""
    jpeg = encode_jpeg(resize_short_side(frame.picture(), settings.short_side), settings.quality)
    rgb = decode_image(jpeg)
    return Handled(frame.time, jpeg, rgb.shape[:2], estimator([rgb])[0] if estimator else None)


def resample(handled: Sequence[Handled], rate: float) -> tuple[dict[int, bytes], dict[int, np.ndarray], int]:
    """Frames (JPEG) and people by number, from 1, at `rate` a second from the first to the last handled one.

    Returns their count too. Each handled frame counts for the nearest moment, of several the nearest one; a moment
    without one gets the picture of the handled frame that is nearest, and people between those of the one before and
    after, as if these had been estimated and the others not (`fill_in`).
    """
    nearest: dict[int, Handled] = {}
    moments = [1 + (frame.time - handled[0].time) * rate for frame in handled]
    for moment, frame in sorted(zip(moments, handled, strict=True), key=lambda pair: -abs(pair[0] - round(pair[0]))):
        nearest[round(moment)] = frame  # the one that comes last is the nearest
    count = max(nearest)
    owners = (min(nearest, key=lambda known: (abs(known - number), known)) for number in range(1, count + 1))
    frames = {number: nearest[owner].jpeg for number, owner in enumerate(owners, 1)}
    if handled[0].people is None:
        return frames, {}, count
    people = {number: frame.people for number, frame in nearest.items()}
    return frames, dict(enumerate(fill_in(people, handled[0].size), 1)), count


def classify_window(handled: Sequence[Handled], models: Mapping[str, Model], options: Options) -> Prediction:
    """Score handled frames, resampled to the rate of those that the streams were trained on."""
    frames, people, count = resample(handled, float(options.frames.rate()))
    poses = complete_people(Poses(people, handled[0].size), count, 1, options.cleaning)
    return Prediction(score_frames(models, frames, poses, count, options), count, poses, "")


# ---- the loop ----


def watch(
    capture: Capture,
    models: Mapping[str, Model],
    estimator: Estimator | None,
    options: Options,
    window: float,
    stride: float,
    stop: StopRequest,
) -> Generator[Classified, None, None]:
    """Score the last `window` seconds every `stride` seconds, or as often as the machine can, until the source ends.

    The window is shorter at the start, and starts anew when the source was lost or its frames change size. What is
    being scored when the source ends or `stop` is requested comes last. Wrap it in `contextlib.closing`.
    """
    recent: deque[Handled] = deque()
    pending: Future | None = None
    handled = connection = 0
    first = due = last = None
    step = 1 / float(options.frames.rate())

    def classify() -> Future:
        span = recent[-1].time - recent[0].time
        rate = (len(recent) - 1) / span if span else 0.0
        facts = (recent[-1].time, recent[-1].time - first, len(recent), rate, handled, capture.count)
        frames = tuple(recent)
        return pool.submit(lambda: Classified(classify_window(frames, models, options), *facts))

    with capture, ThreadPoolExecutor(1) as pool:
        while not (capture.ended or stop.signum):
            captured = capture.newest()
            if captured:
                frame = handle(captured, estimator, options.frames)
                if recent and (captured.connection, frame.size) != (connection, recent[-1].size):
                    recent.clear()
                if not recent:
                    connection, due = captured.connection, frame.time + stride
                    first = frame.time if first is None else first
                handled += 1
                recent.append(frame)
                while recent[0].time < frame.time - max(window - step, 0):
                    recent.popleft()
            if pending and pending.done():
                yield pending.result()
                pending = None
            if recent and not pending and recent[-1].time >= due:
                pending, last = classify(), recent[-1].time
                due = max(due + stride, last)
        if pending:
            yield pending.result()
        if capture.ended and recent and recent[-1].time != last:
            yield classify().result()


def run_live(source: str, classifier: Classifier, plan: Plan, topk: int, csv: Path | None) -> None:
    """Print what is seen until the source ends, or SIGINT or SIGTERM comes; `csv` gets a line per classification."""
    models, fusion, estimator, options = classifier
    options = replace(options, clips=CLIPS)
    screen, latencies, seen = Screen(), [], None
    with catch_stop_signals() as stop, open_table(csv, fusion.classes) as write:
        capture = Capture(source, report=screen.notice)
        with closing(screen), closing(watch(capture, models, estimator, options, *plan, stop)) as watched:
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
