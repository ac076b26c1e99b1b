"""What the best model's validation scores say about its probabilities, kept in its checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dataloader.names import Video
from fusion.calibration import calibrate
from fusion.matching import match_names
from fusion.scores import load_scores
from utils import load_checkpoint, save_checkpoint


def calibrate_on(scores_file: Path, val: Sequence[Video]) -> dict[str, float]:
    """`fusion.calibration.calibrate` on the score pickle of validation videos; prints what it gives."""
    scores = match_names(load_scores(scores_file), val, str(scores_file), "the validation set")
    labels = {video.name: video.label for video in val}
    kept = calibrate(np.stack(list(scores.values())), np.array([labels[name] for name in scores]))
    print(
        f"calibration: temperature {kept['temperature']:.2f}, ECE {kept['ece_before']:.2f} → {kept['ece']:.2f}, "
        f"threshold {kept['threshold']:.2f} on {kept['videos']} validation videos"
    )
    return kept


def keep_calibration(path: Path, calibration: Mapping[str, float]) -> None:
    """Write `calibration` into the checkpoint `path`, which appears whole; nothing to do if it is there."""
    checkpoint = load_checkpoint(path)
    if checkpoint.get("calibration") != calibration:
        save_checkpoint(path, checkpoint | {"calibration": dict(calibration)})
