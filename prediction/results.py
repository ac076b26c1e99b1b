"""What `predict.py` tells about videos: logits and probabilities of the classes, of each stream and fused."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.atomic import atomic_write
from common.cli import print_table
from common.frame_settings import FrameSettings
from fusion.calibration import Calibration, calibrated, combine
from fusion.metrics import fuse, rank_classes
from network import Model
from prediction.classify import POSE_STREAMS, Prediction
from prediction.overlay import Bars

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
