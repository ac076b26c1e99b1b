"""Milliseconds of CPU time that the skeleton stream takes for a video with known keypoints: people, network.

python -m benchmarks.skeleton POSE_FLOW CHECKPOINT
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from dataloader.skeleton_dataloader import normalized_paths, skeleton_clips
from network import for_testing, read_model
from pose.keypoints import FILE_NAME, load_keypoints
from prediction.classify import mean_logits
from training.streams import SKELETON


def main(root: Path, checkpoint: Path) -> None:
    """Time every video below `root` once, after one that is not counted; with one thread."""
    torch.set_num_threads(1)
    model = read_model(checkpoint, SKELETON.in_channels, SKELETON.family)
    model.network = for_testing(model.network)
    times = []
    for path in sorted(root.glob(f"*/{FILE_NAME}")):
        keypoints = load_keypoints(path)
        marks = [time.process_time()]
        paths = normalized_paths(keypoints)
        marks.append(time.process_time())
        mean_logits(model, SKELETON, skeleton_clips(paths))
        times.append(1000 * np.diff([*marks, time.process_time()]))
    people, network = np.array(times[1:]).T
    for name, values in (("people", people), ("network", network), ("both", people + network)):
        print(f"{name}: median {np.median(values):.1f} ms, 9 of 10 below {np.quantile(values, 0.9):.1f} ms")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
