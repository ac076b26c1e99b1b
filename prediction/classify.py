"""Trained streams, videos through them by the same samples as testing, and what is told of them."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from common.atomic import write_text
from common.cli import ArgumentGroup, ArgumentParser, UserError, print_table, probability
from common.records import FrameSettings, add_frame_arguments, alike, settings_from_arguments, settings_of
from common.video import count_frames_of, frames_of, through_jpeg
from dataloader.names import stem
from dataloader.sampling import TEST_SAMPLES
from dataloader.split_train_test_video import read_class_index
from fusion.metrics import Calibration, calibrated, combine, fuse, rank_classes, read_calibration
from network import Model, classifier, for_testing, read_model
from pose.estimators import Estimator, add_estimator_arguments, estimator_from_arguments
from pose.keypoints import Keypoints, join_frames, people_of_frame
from pose.people import add_cleaning_arguments, clean_people, cleaning_from_arguments
from pose.pipeline import estimate, fill_in, key_frames
from training.streams import FLOW, MOTION_POSE, SKELETON, SPATIAL, STREAMS, Stream, Window, trained_stream
from utils import computes_in_half, pick_device

BATCH = 8  # frames that go through a pose network together, windows through a stream's
THREADS = min(os.cpu_count() or 1, 8)  # of the video decoder
BAR = {"unit": " frames", "leave": False, "disable": None}
MINIMUM = 0.3  # least probability of a window's answer where validation videos chose no threshold: well above chance
NOBODY_IN_VIEW = "nobody in view"
# A motion stack, ten images, then holds two drawn ones or fewer, and the others are black. Among 1080 videos of the
# demo none is below, among 120 of UT-Interaction one.
FEW_PEOPLE = 0.25


@dataclass(frozen=True)
class Options:
    """How videos are read, searched for people and tested; all but `every_pose` and `amp` as in preparing scripts."""

    frames: FrameSettings = FrameSettings()
    cleaning: dict | None = None  # of the people, see `clean_people`
    estimate_every: int = 1  # which frames' people are found, others' are interpolated
    every_pose: bool = False  # find the people of all frames, not only of those that the streams look at
    amp: bool = False  # mixed precision of the streams
    clips: int = TEST_SAMPLES  # that streams of images vote over
    per_person: str | None = None  # an answer for each person: "alone", or as a "pair" with the nearest other one


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

    def fuse(self, logits: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
        """Fused logits, as average_fusion.py's, probabilities (classes,), and the least one of an answer.

        They are NaN if no stream with logits counts.
        """
        weights = self.weights or [1] * len(self.calibrations)
        kept = {name: w for name, w in zip(self.calibrations, weights, strict=True) if w and name in logits}
        if not kept:
            return *(np.full(len(self.classes), np.nan),) * 2, 0.0
        shares = list(kept.values())
        calibration = self._replace(
            calibrations={name: self.calibrations[name] for name in kept}, weights=shares
        ).calibration
        fused = fuse([logits[name] for name in kept], shares)
        return fused, calibrated(fused, calibration.temperature), calibration.threshold or 0.0


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


# ---- streams ----


def add_prediction_arguments(parser: ArgumentParser) -> None:
    """Add the options that say with which streams to classify, and how frames are made and people found for them."""
    group = parser.add_argument_group("streams, one or several")
    add = group.add_argument
    add("--spatial", type=Path, metavar="CHECKPOINT", help="written by spatial_cnn_15.py")
    text = "written by motion_pose_cnn_15.py; finds people by --model, or takes --keypoints"
    add("--motion", type=Path, metavar="CHECKPOINT", help=text)
    add("--flow", type=Path, metavar="CHECKPOINT", help="written by motion_cnn_15.py; needs OpenCV where flow is by it")
    text = "written by skeleton_gcn_15.py; needs the people of all frames"
    add("--skeleton", type=Path, metavar="CHECKPOINT", help=text)
    text = "of the spatial, motion, flow and skeleton stream in the fusion, one for each that is given (default: equal)"
    add("--weights", nargs="+", type=float, metavar="W", help=text)
    text = (
        "least probability, 0..1, of an answer; below it, it is none of these (default: as chosen on the streams' "
        "validation videos, 95 %% of whose right answers reach it; none without these, but "
        f"{MINIMUM} for windows of --timeline; 0: always answer)"
    )
    add("--threshold", type=probability, metavar="P", help=text)
    text = "an answer for each person who is followed for a window's length, by --skeleton and --motion"
    add("--per-person", action="store_const", const="alone", help=text)
    text = "the same, each person shown with the nearest other one, for what takes two, such as a handshake"
    add("--per-pair", dest="per_person", action="store_const", const="pair", help=text)
    add_class_arguments(group)
    text = "frames; what is not given is as the checkpoints were trained, else every 1, short side 256, quality 95"
    add_frame_arguments(parser.add_argument_group(text))
    text = "cleaning of people (where not given, as for the motion checkpoint; --keypoints are taken as they are)"
    add_cleaning_arguments(parser.add_argument_group(text))
    add_estimator_arguments(parser)


def checkpoints(args: argparse.Namespace) -> dict[Stream, Path]:
    """The streams that are given, in the order of --weights, and their checkpoints."""
    streams = {SPATIAL: args.spatial, MOTION_POSE: args.motion, FLOW: args.flow, SKELETON: args.skeleton}
    given = {stream: path for stream, path in streams.items() if path}
    if not given:
        raise UserError("no stream to classify with; give --spatial, --motion, --flow or --skeleton CHECKPOINT")
    if args.per_person and (not args.skeleton or args.spatial or args.flow):
        raise UserError("--per-person: needs --skeleton CHECKPOINT, and --motion at most: others see the whole picture")
    try:
        fuse([np.zeros(1)] * len(given), args.weights)
    except ValueError:
        weights = " ".join(f"{weight:g}" for weight in args.weights)
        raise UserError(f"--weights {weights}: give {len(given)} numbers >= 0, one a stream, not all 0") from None
    return given


def add_class_arguments(parser: ArgumentGroup) -> None:
    """Add --ucf-list and --class-index, the `class_index` of `load_for_testing`, to a parser or one of its groups."""
    add = parser.add_argument
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="class indices")
    text = "class index within --ucf-list, read only if a checkpoint does not name its classes"
    add("--class-index", metavar="FILE", default="classInd15.txt", help=text)


def load_for_testing(path: Path, stream: Stream, class_index: Path, device: torch.device) -> Model:
    """A stream's checkpoint with its network made for testing, on `device`.

    The file `class_index` names the classes of a checkpoint that does not.
    """
    model = read_model(path, stream.in_channels, stream.family)
    if model.classes is None:
        model.classes = read_class_index(class_index)
        count = classifier(model.network).out_features
        if len(model.classes) != count:
            found = f"does not name its {count} classes, and {class_index} has {len(model.classes)}"
            raise UserError(f"{path}: {found}; give the --class-index that it was trained with")
    model.network = for_testing(model.network, device)
    return model


def trained_on(name: str, model: Model) -> Stream:
    """The `trained_stream` of a model."""
    return trained_stream(STREAMS[name], model.checkpoint.get("options", {}))


def looking_for_people(models: Mapping[str, Model]) -> list[Model]:
    """Those models that have to know where people are."""
    streams = ((model, trained_on(name, model)) for name, model in models.items())
    return [model for model, stream in streams if stream.of_people or stream.in_box]


def prepare(args: argparse.Namespace, keypoints: bool, overlay: bool) -> Classifier:
    """Load what `args` ask for; nobody is estimated where there are `keypoints`."""
    given, device = checkpoints(args), pick_device(args.device)
    models = {
        stream.name: load_for_testing(path, stream, args.ucf_list / args.class_index, device)
        for stream, path in given.items()
    }
    first = next(iter(models.values()))
    for model in models.values():
        for one, other in zip_longest(first.classes, model.classes, fillvalue="none"):
            if one != other:
                unlike = f"{first.path} and {model.path} were trained on different classes ({one!r}, {other!r})"
                raise UserError(f"{unlike}; give checkpoints of the same class index")
    settings = settings_from_arguments(args, common_settings(models, args))
    looking = [] if keypoints else looking_for_people(models)
    poses = next(filter(None, (model.checkpoint.get("poses") for model in looking)), {})
    estimator = None
    if looking or (overlay and not keypoints and (args.model or args.pose_weights)):
        estimator = estimator_from_arguments(args, poses)
        unlike = [name for name, value in estimator.settings.items() if poses.get(name) != value]
        if unlike and "model" in poses:
            made = f"{unlike[0]} = {poses.get(unlike[0])}, now it is {estimator.settings[unlike[0]]}"
            print(f"warning: {looking[0].path} was trained on people found with {made}", file=sys.stderr)
    if not (settings.fps or settings.rate or args.every or getattr(args, "live", None)):
        unknown = "the checkpoints do not tell at what rate their frames came"
        print(f"{unknown}: each one of a video is taken, 25 a second of a camera; --fps chooses", file=sys.stderr)
    cleaning = cleaning_from_arguments(args, float(settings.per_second()), poses)
    options = Options(
        settings,
        cleaning,
        poses.get("every") or 1,
        overlay,
        args.amp and computes_in_half(device),
        per_person=args.per_person,
    )
    calibrations = {name: read_calibration(model.checkpoint) for name, model in models.items()}
    return Classifier(models, Fusion(first.classes, calibrations, args.weights, args.threshold), estimator, options)


def common_settings(models: Mapping[str, Model], args: argparse.Namespace) -> FrameSettings | None:
    """How the frames that the streams were trained on were made; None if no checkpoint tells.

    They must agree in what `args`, of `add_frame_arguments`, leaves open. What one does not tell is as the other's, and
    the JPEG that people were found in does not matter.
    """
    made = {name: settings for name, model in models.items() if (settings := settings_of(model.checkpoint))}
    first = next((name for name in made if not STREAMS[name].of_people), next(iter(made), None))
    if first is None:
        return None
    common = made[first]
    for name, settings in made.items():
        common = replace(common, short_side=common.short_side or settings.short_side, rate=common.rate or settings.rate)
        quality = common.quality if STREAMS[name].of_people else settings.quality
        settings = replace(settings, short_side=settings.short_side or common.short_side, quality=quality)
        one, other = (settings_from_arguments(args, each) for each in (common, settings))
        if one != other or not alike(one.rate, other.rate):
            told = f"{models[first].path} was trained on frames made with {one}, {models[name].path} with {other}"
            raise UserError(f"{told}; choose with --every, --fps, --short-side, --quality")
    return common


# ---- videos and windows ----


def classify(path: Path, classifier: Classifier) -> Prediction:
    """Test the streams on a video file, which is one window."""
    window, damage = look_at_file(path, classifier)
    return Prediction(score(window, classifier), window, damage)


def look_at_file(path: Path, classifier: Classifier) -> tuple[Window, str]:
    """A video file as one window, filled by `look`, and what of it could not be decoded, or "".

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

    check_num_frames(people, window.num_frames)
    look(window, read, classifier)
    return window, "".join(damage)


def check_num_frames(people: Estimator | Keypoints | None, num_frames: int) -> None:
    """Refuse keypoints that are not those of `num_frames` frames."""
    if isinstance(people, Keypoints) and people.num_frames != num_frames:
        counts = f"its keypoints are those of {people.num_frames} frames, but it has {num_frames}"
        raise UserError(f"{counts}; give its own keypoints, and --every or --fps as they were made with")


def look(
    window: Window, read: Callable[[Sequence[int]], Iterable[np.ndarray]], classifier: Classifier, start: int = 0
) -> dict[int, np.ndarray]:
    """Fill a window, after `start` frames, with what the streams' test looks at; returns the people as they were found.

    `read(numbers)` gives the pictures of frames in increasing order. The people that the window holds already are not
    searched again. Every n-th frame is searched (see `Options`), the people between are interpolated, and all cleaned.
    """
    models, _, people, options = classifier
    estimator = people if isinstance(people, Estimator) else None
    if isinstance(people, Keypoints):
        window.people = {i: people_of_frame(people, start + i) for i in range(1, window.num_frames + 1)}
        window.frame_size = people.frame_size
    looked_at = {True: set(), False: set()}
    for name, model in models.items():
        stream = trained_on(name, model)
        looked_at[stream.of_people].update(stream.looks_at(window.num_frames, options.clips))
        if stream.in_box:
            looked_at[True].update(range(1, window.num_frames + 1))
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
    return score_windows([window], classifier)[0]


@torch.inference_mode()
def score_windows(windows: Sequence[Window], classifier: Classifier) -> list[dict[str, np.ndarray]]:
    """The `score` of each window; up to `BATCH` of them go through a network together."""
    models, _, _, options = classifier
    scores: list[dict[str, np.ndarray]] = [{} for _ in windows]
    for name, model in models.items():
        stream = trained_on(name, model)
        known = [number for number, window in enumerate(windows) if not (stream.of_people and window.nobody)]
        for batch in (known[first : first + BATCH] for first in range(0, len(known), BATCH)):
            samples = [stream.look(windows[number], model, options.clips) for number in batch]
            images = ((sample.images.to(model.device), sample.index.to(model.device)) for sample in samples)
            inputs = torch.cat([stream.to_input(*each) for each in images])
            with torch.autocast(model.device.type, enabled=options.amp):
                of_clips = model.network(inputs)
            counts = [len(sample.index) for sample in samples]
            for number, logits in zip(batch, of_clips.float().split(counts), strict=True):
                scores[number][name] = logits.mean(0).cpu().numpy()
                if not np.isfinite(scores[number][name]).all():
                    raise UserError(f"the scores of {model.path} are not finite; try --no-amp, or another checkpoint")
    return scores


# ---- what is told ----


def describe(prediction: Prediction, fusion: Fusion) -> dict:
    """A prediction in plain values: answer, notes, logits and probabilities by class, best first.

    Those are of each stream that has any, and fused; empty if no stream counts.
    """
    logits = prediction.logits
    *all_fused, threshold = fusion.fuse(logits)

    def by_class(logits: np.ndarray, probabilities: np.ndarray) -> dict[str, dict[str, float]]:
        order = [] if np.isnan(logits).any() else rank_classes(logits[None])[0]
        named = {"logits": logits, "probabilities": probabilities}
        return {name: {fusion.classes[i]: float(values[i]) for i in order} for name, values in named.items()}

    streams = {
        name: by_class(values, calibrated(values, fusion.calibrations[name].temperature))
        for name, values in logits.items()
    }
    fused = by_class(*all_fused)
    best = {name: top_classes(scores, 1)[0] for name, scores in streams.items()}
    answer = next((name for name, probability in top_classes(fused, 1) if probability >= threshold), None)
    counts, notes = counts_of(prediction.window, prediction.damage), []
    looked_at, found = counts["frames_looked_at"], counts["frames_with_people"]
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
    return counts | {"fused": fused, "streams": streams, "answer": answer, "notes": notes}


def counts_of(window: Window, damage: str) -> dict:
    """What a `describe`d result begins with: numbers of frames, and what could not be decoded."""
    shown = window.shown
    counts = {"frames": window.num_frames, "frames_looked_at": len(shown), "frames_with_people": sum(shown.values())}
    return counts | {"damage": damage or None}


def top_classes(scores: dict[str, dict[str, float]], count: int) -> list[tuple[str, float]]:
    """The most probable classes, fused or of a stream, with their probabilities."""
    return list(scores["probabilities"].items())[:count]


def count_frames(result: dict) -> str:
    """How many frames a `describe`d result is of, and how many show people, if people were looked for."""
    frames, looked_at = result["frames"], result["frames_looked_at"]
    people = f", people in {result['frames_with_people']} of the {looked_at} looked at" if looked_at else ""
    return f"{frames} frame{'s' * (frames != 1)}{people}"


def table_of(result: dict, topk: int) -> tuple[list[str], list[list[str]]]:
    """What columns hold, and rows of the most probable classes: name and percentages, fused and of each stream."""
    streams = result["streams"]
    columns = {"fused": result["fused"], **streams} if len(streams) > 1 else streams
    names = [name for name, _ in top_classes(result["fused"], topk)]
    return list(columns), [
        [name, *(f"{100 * column['probabilities'][name]:.1f}" for column in columns.values())] for name in names
    ]


def print_result(result: dict, topk: int) -> None:
    """Print the fused top k with every stream's probabilities, and reasons to doubt them."""
    columns, rows = table_of(result, topk)
    print_answer(result, ("probability, %", *columns), rows)


def print_answer(result: dict, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print what a `describe`d result is of, a table, if it has rows, and the notes."""
    print(f"\n{result['video']}: {count_frames(result)}")
    if result["damage"]:
        print(f"  {result['damage']}")
    if rows:
        print_table(header, [(f"  {name}", *values) for name, *values in rows])
    for note in result["notes"]:
        print(f"  {note}")
    sys.stdout.flush()


def write_results(path: Path, results: Sequence[dict], classifier: Classifier) -> None:
    """Write everything as JSON: the streams, how frames were made, and an object per video."""
    models, fusion, _, options = classifier
    shares = np.ones(len(models)) if fusion.weights is None else np.array(fusion.weights)
    streams = {
        name: {"checkpoint": str(model.path), "arch": model.arch, "image_size": model.image_size, "weight": weight}
        | fusion.calibrations[name]._asdict()
        for (name, model), weight in zip(models.items(), (shares / shares.sum()).tolist(), strict=True)
    }
    content: dict = {"classes": fusion.classes, "streams": streams, "fused": fusion.calibration._asdict()}
    content |= {"frames": asdict(options.frames), "videos": results}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
