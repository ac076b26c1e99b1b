"""The README's picture of people who each get an answer: test videos of the demo side by side, as one video.

python -m docs.persons demo/seed0 yard docs/persons.png
python predict.py yard/yard.mp4 --keypoints yard --per-person --overlay yard/seen.mp4 \\
    --skeleton demo/seed0/record/skeleton/model_best.pth.tar
"""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

import predict
from common.records import FrameSettings
from common.video import frames_of, write_mp4
from dataloader.names import find_videos
from dataloader.split_train_test_video import read_split
from pose.keypoints import FILE_NAME, load_keypoints, save_keypoints
from prediction.classify import prepare
from prediction.overlay import draw_heads
from prediction.persons import classify_persons, heads_of
from prediction.timeline import Plan

COLUMNS, ROWS = 3, 2
SHOWN = 13  # the frame of the picture


def main(demo: Path, folder: Path, out: Path) -> None:
    """Write the video and its people into `folder`, and the picture."""
    tests = read_split(demo / "UCF_list", "04", "classInd15.txt").test
    files, generator = find_videos(demo / "videos"), np.random.default_rng(0)
    classes = generator.permutation(len({video.label for video in tests}))[: COLUMNS * ROWS]
    chosen = [generator.choice([video.name for video in tests if video.label == label]) for label in classes]
    videos = [list(frames_of(files[f"v_{name}"], FrameSettings())) for name in chosen]
    (height, width), length = videos[0][0].shape[:2], min(map(len, videos))
    size = ROWS * height // 2 * 2, COLUMNS * width // 2 * 2

    def tile(number: int) -> np.ndarray:
        rows = [videos[row * COLUMNS : (row + 1) * COLUMNS] for row in range(ROWS)]
        whole = np.concatenate([np.concatenate([video[number] for video in row], axis=1) for row in rows])
        return whole[: size[0], : size[1]]

    folder.mkdir(parents=True, exist_ok=True)
    write_mp4(folder / "yard.mp4", (Image.fromarray(tile(number)) for number in range(length)), Fraction(25))
    people, frames = [], []
    for place, name in enumerate(chosen):
        keypoints = load_keypoints(demo / "pose_flow" / name / FILE_NAME)
        kept = keypoints.frame <= length
        moved = keypoints.keypoints[kept] + np.array((place % COLUMNS, place // COLUMNS, 0), np.float32)
        moved[..., :2] *= np.array((width / size[1], height / size[0]), np.float32)
        people.append(np.where(moved[..., 2:] > 0, moved, 0))
        frames.append(keypoints.frame[kept])
    save_keypoints(folder / FILE_NAME, np.concatenate(people), np.concatenate(frames), length, size)
    skeleton = demo / "record/skeleton/model_best.pth.tar"
    args = predict.get_args_parser().parse_args(["yard.mp4", "--per-person", "--skeleton", str(skeleton)])
    classifier = prepare(args, keypoints=True, overlay=True)._replace(people=load_keypoints(folder / FILE_NAME))
    persons = classify_persons(folder / "yard.mp4", classifier, Plan())
    picture = draw_heads(tile(SHOWN - 1), heads_of(persons)[SHOWN])
    picture.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
