"""Videos through trained streams, by the same samples as testing, and what is told of them."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from common.atomic import atomic_write
from common.cli import UserError, print_table
from common.records import FrameSettings
from common.video import count_frames_of, frames_of, through_jpeg
from dataloader.names import stem
from dataloader.sampling import TEST_SAMPLES
from dataloader.video_dataset import Sample
from fusion.metrics import Calibration, calibrated, combine, fuse, rank_classes
from network import Model
from pose.estimators import Estimator
from pose.keypoints import Keypoints, join_frames, people_of_frame
from pose.people import clean_people
from pose.pipeline import estimate, fill_in, key_frames
from prediction.overlay import Bars
from training.streams import STREAMS, Stream, Window, trained_stream

BATCH = 8  # frames that go through a pose network together
THREADS = min(os.cpu_count() or 1, 8)  # of the video decoder
BAR = {"unit": " frames", "leave": False, "disable": None}
NOBODY_IN_VIEW = "nobody in view"


@dataclass(frozen=True)
class Options:
    """How videos are read, searched for people and tested; all but `every_pose` and `amp` as in preparing scripts."""

    frames: FrameSettings = FrameSettings()
    cleaning: dict | None = None  # of the people, see `clean_people`
    estimate_every: int = 1  # which frames' people are found, others' are interpolated
    every_pose: bool = False  # find the people of all frames, not only of those that the streams look at
    amp: bool = False  # mixed precision of the streams
    clips: int = TEST_SAMPLES  # that streams of images vote over


class Fusion(NamedTuple):
    """How streams' logits become an answer: their `weights` (None: equal) and, by stream, `calibrations`.

    `threshold`, of the fused probability, goes before theirs.
    """

    classes: Sequence[str]
    calibrations: Mapping[str, Calibration]
    weights: Sequence[float] | None = None
    threshold: float | None = None

    @property
    def calibration(self) -> Calibration:
        """That of the fused logits."""
        fused = combine(list(self.calibrations.values()), self.weights)
        return fused if self.threshold is None else fused._replace(threshold=self.threshold)

    def of(self, streams: Collection[str]) -> "Fusion":
        """That of some streams, without those of weight 0."""
        weights = self.weights or [1] * len(self.calibrations)
        kept = {name: w for name, w in zip(self.calibrations, weights, strict=True) if w and name in streams}
        calibrations = {name: self.calibrations[name] for name in kept}
        return self._replace(calibrations=calibrations, weights=list(kept.values()))

    def fuse(self, logits: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Fused logits, as average_fusion.py's, and probabilities (classes,); NaN if no stream with logits counts."""
        kept = self.of(logits)
        if not kept.calibrations:
            return (np.full(len(self.classes), np.nan),) * 2
        fused = fuse([logits[name] for name in kept.calibrations], kept.weights)
        return fused, calibrated(fused, kept.calibration.temperature)


class Classifier(NamedTuple):
    """Streams ready for testing, by name; how they are fused; what finds or holds people, if anything; options."""

    models: Mapping[str, Model]
    fusion: Fusion
    people: Estimator | Keypoints | None
    options: Options


class Prediction(NamedTuple):
    """A window and its scores: `logits` by stream, see `score`; what of a file could not be decoded, or ""."""

    logits: dict[str, np.ndarray]
    window: Window
    damage: str = ""

    @property
    def num_frames(self) -> int:
        """That of the window."""
        return self.window.num_frames

    @property
    def shown(self) -> dict[int, bool]:
        """That of the window."""
        return self.window.shown


def classify(path: Path, classifier: Classifier) -> Prediction:
    """Test the streams on a video file, which is one window.

    The video is decoded twice, for the test positions depend on the number of frames, and keeping all of a long
    video's would take too much memory.
    """
    damage: list[str] = []
    settings, people = classifier.options.frames, classifier.people
    window = Window(count_frames_of(path, settings, THREADS, damage))

    def read(numbers: Sequence[int]) -> Iterator[np.ndarray]:
        with closing(frames_of(path, settings, THREADS, wanted=numbers)) as frames:
            for rgb in tqdm(frames, stem(path.name), len(numbers), **BAR):
                yield through_jpeg(rgb, settings.quality)

    if isinstance(people, Keypoints):
        check_num_frames(people, window.num_frames)
        window = window_of_keypoints(people, 0, window.num_frames)
    look(window, read, classifier)
    return Prediction(score(window, classifier), window, "".join(damage))


def check_num_frames(keypoints: Keypoints, num_frames: int) -> None:
    """Refuse keypoints that are not those of `num_frames` frames."""
    if keypoints.num_frames != num_frames:
        counts = f"its keypoints are those of {keypoints.num_frames} frames, but it has {num_frames}"
        raise UserError(f"{counts}; give its own keypoints, and --every or --fps as they were made with")


# ---- windows ----


def window_of_keypoints(keypoints: Keypoints, start: int, num_frames: int) -> Window:
    """The window of the frames start + 1 … start + num_frames with the people that `keypoints` hold."""
    people = {number: people_of_frame(keypoints, start + number) for number in range(1, num_frames + 1)}
    return Window(num_frames, {}, people, keypoints.frame_size)


def look(
    window: Window, read: Callable[[Sequence[int]], Iterable[np.ndarray]], classifier: Classifier
) -> dict[int, np.ndarray]:
    """Fill a window with what the streams' test looks at; returns the people as they were found, by frame.

    `read(numbers)` gives the pictures of frames in increasing order. The people that the window holds already are not
    searched again. Every n-th frame is searched (see `Options`), the people between are interpolated, and all cleaned.
    """
    models, _, people, options = classifier
    estimator = people if isinstance(people, Estimator) else None
    looked_at = {True: set(), False: set()}
    for stream in map(STREAMS.__getitem__, models):
        looked_at[stream.of_people].update(stream.looks_at(window.num_frames, options.clips))
    posed, every = looked_at[True], options.estimate_every if estimator else 1
    # People are followed over the whole window, unless only their own scores count.
    followed = options.cleaning and (options.cleaning["max_people"] or options.cleaning["smooth"])
    if people is not None and (options.every_pose or posed and (followed or every > 1)):
        posed = set(key_frames(window.num_frames, every))
    new = posed - window.people.keys() if estimator else set()

    def to_search() -> Iterator[tuple[int, np.ndarray]]:
        numbers = sorted(looked_at[False] | new)
        for number, picture in zip(numbers, read(numbers) if numbers else (), strict=True):
            window.frame_size = window.frame_size or picture.shape[:2]
            if number in looked_at[False]:
                window.pictures[number] = picture
            if number in new:
                yield number, picture

    found = find_people(to_search(), estimator) if estimator else dict(to_search())
    found = {number: people for number, people in sorted((window.people | found).items()) if number in posed}
    window.people = complete_people(found, window, every, options.cleaning)
    return found


def find_people(frames: Iterator[tuple[int, np.ndarray]], estimator: Estimator) -> dict[int, np.ndarray]:
    """The people (P, 18, 3) of numbered frames."""
    people = {}
    batches = (tuple(zip(*batch, strict=True)) for batch in iter(lambda: list(islice(frames, BATCH)), []))
    with closing(estimate(estimator, batches)) as results:
        for numbers, found, _, error in results:
            if error:
                raise error
            people.update(zip(numbers, found, strict=True))
    return people


def complete_people(
    found: Mapping[int, np.ndarray], window: Window, every: int, cleaning: dict | None
) -> dict[int, np.ndarray]:
    """The people found in every n-th frame of a window, those between, all cleaned."""
    people = dict(found)
    if every > 1 and people:
        people = dict(enumerate(fill_in(people, window.frame_size), 1))
    if cleaning and people:
        cleaned = clean_people(join_frames(people, window.num_frames, window.frame_size), cleaning)
        people = {number: people_of_frame(cleaned, number) for number in people}
    return people


def score(window: Window, classifier: Classifier) -> dict[str, np.ndarray]:
    """Mean logits by stream, float32 (classes,), of a window; where nobody is in view, streams of poses have none."""
    models, _, _, options = classifier
    logits = {}
    for name, model in models.items():
        stream = trained_stream(STREAMS[name], model.checkpoint.get("options", {}))
        if not (stream.of_people and window.nobody):
            logits[name] = mean_logits(model, stream, stream.look(window, model, options.clips), options.amp)
    return logits


@torch.inference_mode()
def mean_logits(model: Model, stream: Stream, sample: Sample, amp: bool = False) -> np.ndarray:
    """Mean logits, float32 (classes,), over the clips of a sample."""
    device = model.device
    inputs = stream.to_input(sample.images.to(device), sample.index.to(device))
    with torch.autocast(device.type, enabled=amp):
        logits = model.network(inputs)
    mean = logits.float().mean(0).cpu().numpy()
    if not np.isfinite(mean).all():
        raise UserError(f"the scores of {model.path} are not finite; try --no-amp, or another checkpoint")
    return mean


# ---- what is told ----


# A motion stack, ten images, then holds two drawn ones or fewer, and the others are black. Among 1080 videos of the
# demo none is below, among 120 of UT-Interaction one.
FEW_PEOPLE = 0.25


def describe(scored: Any, fusion: Fusion) -> dict:
    """A `Prediction` or `Timeline` in plain values: answer, notes, logits and probabilities by class.

    Those are of each stream that has any, and fused; empty if no stream counts.
    """
    classes, logits = fusion.classes, scored.logits
    streams = {
        name: _by_class(classes, values, calibrated(values, fusion.calibrations[name].temperature))
        for name, values in logits.items()
    }
    fused, kept = _by_class(classes, *fusion.fuse(logits)), fusion.of(logits)
    threshold = (kept.calibration.threshold or 0) if kept.calibrations else 0
    best = {name: top_classes(scores, 1)[0] for name, scores in streams.items()}
    answer = next((name for name, probability in top_classes(fused, 1) if probability >= threshold), None)
    looked_at, found, notes = len(scored.shown), sum(scored.shown.values()), []
    if left_out := fusion.calibrations.keys() - logits.keys():
        without = f"; without {' and '.join(sorted(left_out))}" if fused["logits"] else ""
        notes.append(f"{NOBODY_IN_VIEW}: people in {found} of the {looked_at} frames looked at{without}")
    if answer is None and fused["logits"]:
        ((likeliest, probability),) = top_classes(fused, 1)
        likeliest = f"the likeliest is {likeliest}, {100 * probability:.1f} %, below {100 * threshold:.1f} %"
        notes.append(f"none of these: {likeliest}")
    if len({name for name, _ in best.values()}) > 1:
        each = ", ".join(f"{stream} {name} {100 * probability:.1f} %" for stream, (name, probability) in best.items())
        notes.append(f"the streams disagree: {each}")
    if found < FEW_PEOPLE * looked_at and any(STREAMS[name].of_people for name in best):
        notes.append(f"people in only {100 * found / looked_at:.0f} % of the frames ({found} of {looked_at} looked at)")
    counts = {"frames": scored.num_frames, "frames_looked_at": looked_at, "frames_with_people": found}
    scores = {"fused": fused, "streams": streams, "answer": answer, "notes": notes}
    return counts | {"damage": scored.damage or None} | scores


def _by_class(classes: Sequence[str], logits: np.ndarray, probabilities: np.ndarray) -> dict[str, dict[str, float]]:
    """Logits and probabilities by class, best first; empty if they are NaN."""
    order = [] if np.isnan(logits).any() else rank_classes(logits[None])[0]
    named = {"logits": logits, "probabilities": probabilities}
    return {name: {classes[label]: float(values[label]) for label in order} for name, values in named.items()}


def top_classes(scores: dict[str, dict[str, float]], count: int) -> list[tuple[str, float]]:
    """The most probable classes of `class_scores` with their probabilities."""
    return list(scores["probabilities"].items())[:count]


def bars_of(result: dict, count: int) -> Bars:
    """What an overlay shows of a `describe`d result: the most probable classes, fused and of each stream, and notes."""
    top, streams = top_classes(result["fused"], count), result["streams"] if len(result["streams"]) > 1 else {}
    each = {stream: [scores["probabilities"][name] for name, _ in top] for stream, scores in streams.items()}
    return Bars(top, each, result["notes"], result["answer"] is not None)


def count_frames(result: dict) -> str:
    """How many frames a `describe`d result is of, and how many show people, if people were looked for."""
    frames, looked_at = result["frames"], result["frames_looked_at"]
    people = f", people in {result['frames_with_people']} of the {looked_at} looked at" if looked_at else ""
    return f"{frames} frame{'s' * (frames != 1)}{people}"


def print_result(result: dict, topk: int) -> None:
    """Print the fused top k with every stream's probabilities, and each stream's own top k."""
    print(f"\n{result['video']}: {count_frames(result)}")
    if result["damage"]:
        print(f"  {result['damage']}")
    streams = result["streams"]
    columns = {"fused": result["fused"], **streams} if len(streams) > 1 else streams
    rows = [
        (f"  {name}", *(f"{100 * column['probabilities'][name]:.1f}" for column in columns.values()))
        for name, _ in top_classes(result["fused"], topk)
    ]
    if rows:
        print_table(("probability, %", *columns), rows)
    for stream, scores in streams.items() if len(streams) > 1 else ():
        top = ", ".join(f"{name} {100 * value:.1f}" for name, value in top_classes(scores, topk))
        print(f"  {stream} alone: {top}")
    for note in result["notes"]:
        print(f"  {note}")
    sys.stdout.flush()


def write_results(path: Path, results: Sequence[dict], classifier: Classifier) -> None:
    """Write everything as JSON: the streams, how frames were made, and an object per video."""
    models, fusion, _, options = classifier
    shares = np.ones(len(models)) if fusion.weights is None else np.array(fusion.weights)
    streams = {
        name: {"checkpoint": str(model.path), "arch": model.arch, "image_size": model.image_size, "weight": weight}
        | _calibration_values(fusion.calibrations[name])
        for (name, model), weight in zip(models.items(), (shares / shares.sum()).tolist(), strict=True)
    }
    fused = _calibration_values(fusion._replace(threshold=None).calibration)
    fused["threshold"] = fusion.calibration.threshold
    content = {"classes": fusion.classes, "streams": streams, "fused": fused, "frames": asdict(options.frames)}
    with atomic_write(path) as file:  # names of files may not be valid Unicode
        text = json.dumps(content | {"videos": results}, indent=1, ensure_ascii=False)
        file.write(text.encode("utf-8", "replace") + b"\n")


def _calibration_values(calibration: Calibration) -> dict:
    return {"calibrated": calibration.known, **calibration._asdict()}
