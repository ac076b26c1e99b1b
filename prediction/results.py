"""What `predict.py` tells about videos: logits and probabilities of the classes, of each stream and fused."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.atomic import atomic_write
from common.cli import print_table
from common.frame_settings import FrameSettings
from fusion.metrics import fuse, rank_classes, softmax
from network import Model
from prediction.classify import Prediction

MEANING = (
    "logits: the mean of a stream's logit vectors over the test positions, as in the score pickles, or, fused, the "
    "weighted mean of the streams' logits; probabilities: the softmax of those logits, from 0 to 1"
)


def describe(prediction: Prediction, classes: Sequence[str], weights: Sequence[float] | None) -> dict:
    """A prediction in plain values: logits and probabilities by class, of each stream and fused with `weights`."""
    people = prediction.poses.people.values()
    return {
        "frames": prediction.num_frames,
        "frames_looked_at": len(people),
        "frames_with_people": sum(len(persons) > 0 for persons in people),
        "damage": prediction.damage or None,
        **describe_scores(prediction.logits, classes, weights),
    }


def describe_scores(
    logits: Mapping[str, np.ndarray], classes: Sequence[str], weights: Sequence[float] | None
) -> dict[str, dict]:
    """The `logits` of streams, and those fused with `weights`, by class name: see `class_scores`."""
    return {
        "fused": class_scores(fuse(list(logits.values()), weights), classes),
        "streams": {stream: class_scores(values, classes) for stream, values in logits.items()},
    }


def class_scores(logits: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """`logits` and `probabilities` (classes,) by class name, best first."""
    order = rank_classes(logits[None])[0]
    named = {"logits": logits, "probabilities": softmax(logits)}
    return {name: {classes[label]: float(values[label]) for label in order} for name, values in named.items()}


def top_classes(scores: dict[str, dict[str, float]], count: int) -> list[tuple[str, float]]:
    """The most probable classes of `class_scores` with their probabilities."""
    return list(scores["probabilities"].items())[:count]


def print_result(result: dict, topk: int) -> None:
    """Print the fused top k with every stream's probabilities, and each stream's own top k."""
    looked_at = result["frames_looked_at"]
    people = f", people in {result['frames_with_people']} of the {looked_at} looked at" if looked_at else ""
    print(f"\n{result['video']}: {result['frames']} frame{'s' * (result['frames'] != 1)}{people}")
    if result["damage"]:
        print(f"  {result['damage']}")
    streams = result["streams"]
    columns = {"fused": result["fused"], **streams} if len(streams) > 1 else streams
    rows = [
        (f"  {name}", *(f"{100 * column['probabilities'][name]:.1f}" for column in columns.values()))
        for name, _ in top_classes(result["fused"], topk)
    ]
    print_table(("probability, %", *columns), rows)
    for stream, scores in streams.items() if len(streams) > 1 else ():
        top = ", ".join(f"{name} {100 * value:.1f}" for name, value in top_classes(scores, topk))
        print(f"  {stream} alone: {top}")
    sys.stdout.flush()


def write_results(
    path: Path,
    results: Sequence[dict],
    models: Mapping[str, Model],
    weights: Sequence[float] | None,
    settings: FrameSettings,
) -> None:
    """Write everything as JSON: what the numbers are, the streams, how frames were made, and an object per video."""
    shares = np.ones(len(models)) if weights is None else np.array(weights)
    streams = {
        name: {"checkpoint": str(model.path), "arch": model.arch, "image_size": model.image_size, "weight": weight}
        for (name, model), weight in zip(models.items(), (shares / shares.sum()).tolist(), strict=True)
    }
    classes = next(iter(models.values())).classes
    content = {"meaning": MEANING, "classes": classes, "streams": streams, "frames": settings._asdict()}
    content["videos"] = results
    with atomic_write(path) as file:  # names of files may not be valid Unicode
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
