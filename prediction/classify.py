"""One video through trained streams, by the same code and images as the steps from videos to score pickles."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from common.atomic import atomic_write
from common.cli import UserError, print_table
from common.frames import decode_image
from common.optical_flow import Method, flow_images
from common.records import FrameSettings
from common.video import decode_frames, encode_jpeg, resize_short_side
from dataloader.names import stem
from dataloader.sampling import TEST_SAMPLES, clips_for_testing
from dataloader.skeleton_dataloader import normalized_paths, skeleton_clips
from dataloader.video_dataset import Sample, sample_for_testing
from fusion.metrics import Calibration, calibrated, combine, fuse, rank_classes
from network import Model
from pose.draw import draw_people, encode_pose_image
from pose.estimators import Estimator
from pose.keypoints import Keypoints, join_frames, people_of_frame, too_few_people
from pose.people import clean_people
from pose.pipeline import estimate, fill_in, key_frames
from prediction.overlay import Bars
from training.streams import FLOW, MOTION_POSE, SKELETON, SPATIAL, STREAMS, Stream, trained_options, trained_stream

POSE_STREAMS = {MOTION_POSE.name, SKELETON.name}
BATCH = 8  # frames that go through a pose network together
THREADS = min(os.cpu_count() or 1, 8)  # of the video decoder
BAR = {"unit": " frames", "leave": False, "disable": None}


@dataclass(frozen=True)
class Options:
    """How videos are read, searched for people and tested; all but `every_pose` and `amp` as in preparing scripts."""

    frames: FrameSettings = FrameSettings()
    cleaning: dict | None = None  # of the people, see `clean_people`
    estimate_every: int = 1  # which frames' people are found, others' are interpolated
    every_pose: bool = False  # find the people of all frames, not only of those that the motion stream looks at
    amp: bool = False  # mixed precision of the streams
    flow: Method | None = None  # what computes the flow stream's images
    clips: int = TEST_SAMPLES  # that streams of images vote over


@dataclass
class Poses:
    """People (P, 18, 3) by the number of their frame, from 1, and the (height, width) of the frames."""

    people: dict[int, np.ndarray] = field(default_factory=dict)
    frame_size: tuple[int, int] | None = None

    @property
    def with_people(self) -> int:
        """The number of frames that show somebody."""
        return sum(bool((people[..., 2] > 0).any()) for people in self.people.values())

    @property
    def nobody(self) -> bool:
        """Whether too few of the frames that were looked at show people for poses to tell anything."""
        return too_few_people(self.with_people, len(self.people))

    def keypoints(self, num_frames: int) -> Keypoints:
        """The same as the keypoints of a video of `num_frames` frames, all of which were looked at."""
        return join_frames(self.people, num_frames, self.frame_size)


class Prediction(NamedTuple):
    """Scores of a video: `logits` by stream, float32 (classes,), means over the test positions; see `score_frames`.

    `num_frames` counts the frames made from it, `poses` holds those that were looked at, `damage` says in a
    line what of the file could not be decoded ("": nothing).
    """

    logits: dict[str, np.ndarray]
    num_frames: int
    poses: Poses
    damage: str


# ---- streams ----


@torch.inference_mode()
def score(model: Model, stream: Stream, sample: Sample, amp: bool = False) -> np.ndarray:
    """Mean logits, float32 (classes,), over the clips of a video; raises `UserError` if they are not finite."""
    device = model.device
    inputs = stream.to_input(sample.images.to(device), sample.index.to(device))
    with torch.autocast(device.type, enabled=amp):
        logits = model.network(inputs)
    mean = logits.float().mean(0).cpu().numpy()
    if not np.isfinite(mean).all():
        raise UserError(f"the scores of {model.path} are not finite; try --no-amp, or another checkpoint")
    return mean


# ---- videos ----


def classify(
    path: Path, models: Mapping[str, Model], source: Estimator | Keypoints | None, options: Options
) -> Prediction:
    """Test the streams' `models`, by the stream's name, on a video file.

    Frames and pose-flow images of the people that `source` finds or holds are made as the scripts make them, so the
    scores are theirs. The video is decoded twice, for the test positions depend on the number of frames, and keeping
    all of a long video's would take too much memory. Raises `UserError` if it cannot be read or does not fit the
    keypoints.
    """
    damage: list[str] = []
    num_frames = sum(1 for _ in decode_frames(path, options.frames.every, THREADS, damage, options.frames.fps))
    seen, posed, every = frames_to_look_at(num_frames, models, isinstance(source, Estimator), options)
    frames: dict[int, bytes] = {}

    def keep_seen(numbers: set[int]) -> Iterator[tuple[int, bytes]]:
        """Those whose people are needed; of others come the pictures only."""
        for number, jpeg in _encoded_frames(path, options, seen | numbers):
            if number in seen:
                frames[number] = jpeg
            if number in numbers:
                yield number, jpeg

    if isinstance(source, Estimator):
        encoded = keep_seen(set(posed))
        with tqdm(total=len(posed), desc=stem(path.name), **BAR) as bar:
            poses = find_people(encoded, source, bar.update)
    else:
        frames.update(_encoded_frames(path, options, set(seen)))
        poses = _look_up(source, posed, num_frames) if source else Poses()
    poses = complete_people(poses, num_frames, every, options.cleaning)
    logits = score_frames(models, frames, poses, num_frames, options)
    return Prediction(logits, num_frames, poses, "".join(damage))


def frames_to_look_at(
    num_frames: int, models: Iterable[str], estimating: bool, options: Options
) -> tuple[set[int], Sequence[int], int]:
    """Which of the frames 1 … `num_frames`, of a video or a window of one, the test of the streams `models` needs.

    Returns those needed as pictures, those whose people are needed, and n if people are found in every n-th frame
    (where `estimating`) and interpolated in those between.
    """
    needed = {
        name: clips_for_testing(num_frames, STREAMS[name].length, options.clips)[0]
        for name in models
        if name != SKELETON.name
    }
    seen, drawn, moving = (needed.get(stream.name, ()) for stream in (SPATIAL, MOTION_POSE, FLOW))
    seen = {*seen, *(number for first in moving for number in _pair(first, num_frames))}
    # People are followed over the whole video, unless only their own scores count.
    followed = options.cleaning and (options.cleaning["max_people"] or options.cleaning["smooth"])
    every = options.estimate_every if estimating else 1
    whole = options.every_pose or SKELETON.name in models or (drawn and (followed or every > 1))
    return seen, key_frames(num_frames, every) if whole else drawn, every


def complete_people(poses: Poses, num_frames: int, every: int, cleaning: dict | None) -> Poses:
    """The people found in the frames of `frames_to_look_at`, and those between every n-th frame, cleaned."""
    people = poses.people
    if every > 1 and people:
        people = dict(enumerate(fill_in(people, poses.frame_size), 1))
    if cleaning and people:
        cleaned = clean_people(join_frames(people, num_frames, poses.frame_size), cleaning)
        people = {number: people_of_frame(cleaned, number) for number in people}
    return Poses(people, poses.frame_size)


def score_frames(
    models: Mapping[str, Model], frames: Mapping[int, bytes], poses: Poses, num_frames: int, options: Options
) -> dict[str, np.ndarray]:
    """Mean logits by stream, float32 (classes,), of `num_frames` frames, numbered from 1: a video, or a window of one.

    `frames` holds those that the test looks at as JPEG files, `poses` the people of all that the motion stream looks
    at, and of every one for the skeleton stream. Where nobody is in view, the streams of poses have no logits.
    """

    def pose_image(number: int) -> np.ndarray:
        """As the motion stream was trained: drawn, or read from a JPEG file."""
        trained = trained_options(MOTION_POSE, models[MOTION_POSE.name].checkpoint.get("options", {}))
        people, size = poses.people[number], poses.frame_size
        from_files = trained["from_keypoints"] is False
        return decode_image(encode_pose_image(people, size)) if from_files else draw_people(people, size)

    readers = {
        SPATIAL.name: lambda number: decode_image(frames[number]),
        MOTION_POSE.name: pose_image,
        FLOW.name: lambda number: _flow_image([frames[i] for i in _pair(number, num_frames)], options.flow),
    }
    logits = {}
    for name, model in models.items():
        if poses.nobody and name in POSE_STREAMS:
            continue
        if name == SKELETON.name:
            sample = skeleton_clips(normalized_paths(poses.keypoints(num_frames)))
        else:
            length = STREAMS[name].length
            sample = sample_for_testing(
                partial(map, readers[name]), num_frames, length, model.image_size, options.clips
            )
        stream = trained_stream(STREAMS[name], model.checkpoint.get("options", {}))
        logits[name] = score(model, stream, sample, options.amp)
    return logits


def _pair(number: int, num_frames: int) -> range:
    """The frames between which the flow of a frame lies: it and the next one, at the end those before."""
    first = max(min(number, num_frames - 1), 1)
    return range(first, min(first + 1, num_frames) + 1)


def _flow_image(jpegs: list[bytes], method: Method) -> np.ndarray:
    """The flow between two frames, uint8 (H, W, 2), as extract_flow.py writes it."""
    image = next(flow_images(map(decode_image, jpegs), method))
    return np.stack([decode_image(encode_jpeg(grey))[..., 0] for grey in np.moveaxis(image, 2, 0)], 2)


def _encoded_frames(path: Path, options: Options, numbers: set[int]) -> Iterator[tuple[int, bytes]]:
    """The frames `numbers` of a video, counted from 1 and in order, as JPEG files."""
    settings = options.frames
    with closing(decode_frames(path, settings.every, THREADS, fps=settings.fps)) as pictures:
        for number, rgb in enumerate(islice(pictures, max(numbers, default=0)), 1):
            if number in numbers:
                yield number, encode_jpeg(resize_short_side(rgb, settings.short_side), settings.quality)


def find_people(
    frames: Iterator[tuple[int, bytes]], estimator: Estimator, on_frames: Callable[[int], object] = lambda count: None
) -> Poses:
    """People of numbered JPEG files; `on_frames` is told how many more are done.

    Raises `UserError` if they are not all of one size.
    """
    poses = Poses()
    batches = (tuple(zip(*batch, strict=True)) for batch in iter(lambda: list(islice(frames, BATCH)), []))
    with ThreadPoolExecutor(1) as pool, closing(estimate(estimator, batches, pool, decode_image)) as results:
        for numbers, found, frame_size, error in results:
            if error:
                raise error
            if poses.frame_size not in (None, frame_size):
                raise UserError(f"its frames change from {poses.frame_size} to {frame_size} pixels (height, width)")
            poses.frame_size = frame_size
            poses.people.update(zip(numbers, found, strict=True))
            on_frames(len(numbers))
    return poses


def _look_up(keypoints: Keypoints, numbers: Iterable[int], num_frames: int) -> Poses:
    """People of the frames `numbers` from a video's keypoints."""
    check_num_frames(keypoints, num_frames)
    return Poses({number: people_of_frame(keypoints, number) for number in numbers}, keypoints.frame_size)


def check_num_frames(keypoints: Keypoints, num_frames: int) -> None:
    """Raise `UserError` unless the keypoints are those of `num_frames` frames."""
    if keypoints.num_frames != num_frames:
        counts = f"its keypoints are those of {keypoints.num_frames} frames, but it has {num_frames}"
        raise UserError(f"{counts}; give its own keypoints, and --every or --fps as they were made with")


# ---- what is told ----


MEANING = (
    "logits: the mean of a stream's logit vectors over the test positions, as in the score pickles, or, fused, the "
    "weighted mean of the streams' logits; probabilities: the softmax of logits / temperature, from 0 to 1; "
    "temperature: chosen on validation videos, 1 where there were none (calibrated: false); answer: the most probable "
    "fused class, or null, none of these, if it is less probable than the threshold, or if nobody is in view: streams "
    "of poses then count no more, and have no scores"
)
# A motion stack, ten images, then holds two drawn ones or fewer, and the others are black. Among 1080 videos of the
# demo none is below, among 120 of UT-Interaction one.
FEW_PEOPLE = 0.25
NOBODY_IN_VIEW = "nobody in view"


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

    def of(self, logits: Mapping[str, np.ndarray]) -> tuple["Fusion", np.ndarray] | None:
        """The fusion of those streams that have `logits` (classes,), and these fused; None if no stream counts."""
        shares = self.weights or [1] * len(self.calibrations)
        counted = {name: share for name, share in zip(self.calibrations, shares, strict=True) if name in logits}
        if not any(counted.values()):
            return None
        weights = None if self.weights is None else list(counted.values())
        calibrations = {name: self.calibrations[name] for name in counted}
        fused = fuse([logits[name] for name in counted], weights)
        return self._replace(calibrations=calibrations, weights=weights), fused


def describe(prediction: Prediction, fusion: Fusion) -> dict:
    """A prediction in plain values: answer, notes, logits and probabilities by class, of each stream and fused."""
    result: dict[str, Any] = {
        "frames": prediction.num_frames,
        "frames_looked_at": len(prediction.poses.people),
        "frames_with_people": prediction.poses.with_people,
        "damage": prediction.damage or None,
        **describe_scores(prediction.logits, fusion),
    }
    counted = fusion.of(prediction.logits)
    least = (counted[0].calibration.threshold or 0) if counted else 0
    answer = next((name for name, probability in top_classes(result["fused"], 1) if probability >= least), None)
    return result | {"answer": answer, "notes": notes(result, fusion, None if answer else least)}


def describe_scores(logits: Mapping[str, np.ndarray], fusion: Fusion) -> dict[str, dict]:
    """The `class_scores` of the streams, whose `logits` (classes,) are by stream, and those fused.

    The fused logits are those of average_fusion.py; their probabilities have the temperature of `calibration.combine`.
    Streams without logits do not count; if none is left, there are no fused scores either.
    """
    streams = {
        stream: class_scores(values, fusion.classes, fusion.calibrations[stream].temperature)
        for stream, values in logits.items()
    }
    counted = fusion.of(logits)
    if not counted:
        return {"fused": {"logits": {}, "probabilities": {}}, "streams": streams}
    kept, fused = counted
    return {"fused": class_scores(fused, fusion.classes, kept.calibration.temperature), "streams": streams}


def class_scores(logits: np.ndarray, classes: Sequence[str], temperature: float = 1.0) -> dict[str, dict[str, float]]:
    """`logits` and `probabilities` (classes,), softmax(logits / temperature), by class name, best first."""
    order = rank_classes(logits[None])[0]
    named = {"logits": logits, "probabilities": calibrated(logits, temperature)}
    return {name: {classes[label]: float(values[label]) for label in order} for name, values in named.items()}


def notes(result: dict, fusion: Fusion, threshold: float | None) -> list[str]:
    """Reasons to doubt a `describe`d result, in a line each; `threshold` is given if its best class is below it."""
    looked_at, found, lines = result["frames_looked_at"], result["frames_with_people"], []
    if left_out := fusion.calibrations.keys() - result["streams"].keys():
        without = f"; without {' and '.join(sorted(left_out))}" if result["fused"]["logits"] else ""
        lines.append(f"{NOBODY_IN_VIEW}: people in {found} of the {looked_at} frames looked at{without}")
    if threshold is not None:
        lines += [
            f"none of these: the likeliest is {best}, {100 * probability:.1f} %, below {100 * threshold:.1f} %"
            for best, probability in top_classes(result["fused"], 1)
        ]
    best = {stream: top_classes(scores, 1)[0] for stream, scores in result["streams"].items()}
    if len({name for name, _ in best.values()}) > 1:
        each = ", ".join(f"{stream} {name} {100 * probability:.1f} %" for stream, (name, probability) in best.items())
        lines.append(f"the streams disagree: {each}")
    if looked_at and found < FEW_PEOPLE * looked_at and POSE_STREAMS & best.keys():
        lines.append(f"people in only {100 * found / looked_at:.0f} % of the frames ({found} of {looked_at} looked at)")
    return lines


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


def write_results(
    path: Path, results: Sequence[dict], models: Mapping[str, Model], fusion: Fusion, settings: FrameSettings
) -> None:
    """Write everything as JSON: what the numbers are, the streams, how frames were made, and an object per video."""
    shares = np.ones(len(models)) if fusion.weights is None else np.array(fusion.weights)
    streams = {
        name: {"checkpoint": str(model.path), "arch": model.arch, "image_size": model.image_size, "weight": weight}
        | calibration_values(fusion.calibrations[name])
        for (name, model), weight in zip(models.items(), (shares / shares.sum()).tolist(), strict=True)
    }
    fused = calibration_values(combine(list(fusion.calibrations.values()), fusion.weights))
    fused["threshold"] = fusion.calibration.threshold
    content: dict[str, Any] = {"meaning": MEANING, "classes": fusion.classes, "streams": streams, "fused": fused}
    content |= {"frames": settings._asdict(), "videos": results}
    with atomic_write(path) as file:  # names of files may not be valid Unicode
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def calibration_values(calibration: Calibration) -> dict:
    """A calibration for the JSON file."""
    return {"calibrated": calibration.known, **calibration._asdict()}
