"""What the best model's validation scores say about its probabilities, kept in its checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dataloader.names import Video
from fusion.metrics import calibrate
from fusion.scores import load_scores
from utils import load_checkpoint, save_checkpoint

LEAST_VIDEOS = 20  # of validation; from three, temperatures of 0.1 and 100 were seen


def calibrate_on(scores_file: Path, val: Sequence[Video]) -> dict[str, float] | None:
    """`fusion.metrics.calibrate` on the score pickle of validation videos, None if they are too few; prints it."""
    if len(val) < LEAST_VIDEOS:
        print(f"calibration: left out, {len(val)} validation videos are too few (at least {LEAST_VIDEOS})")
        return None
    scores = load_scores(scores_file)
    labels = {video.name: video.label for video in val}
    kept = calibrate(np.stack(list(scores.values())), np.array([labels[name] for name in scores]))
    print(
        f"calibration: temperature {kept['temperature']:.2f}, ECE {kept['ece_before']:.2f} → {kept['ece']:.2f}, "
        f"threshold {kept['threshold']:.2f} on {kept['videos']} validation videos"
    )
    return kept


def keep_calibration(path: Path, calibration: Mapping[str, float] | None) -> None:
    """Write `calibration` into the checkpoint `path`, which appears whole; nothing to do if it is there, or None."""
    if not calibration:
        return
    checkpoint = load_checkpoint(path)
    if checkpoint.get("calibration") != calibration:
        save_checkpoint(path, checkpoint | {"calibration": dict(calibration)})
