"""Real videos for measurements: UT-Interaction's clips, brought to one shape.

The clips are cut tightly around the actors, so that a picture's shape alone hints at the class. Here every clip stands
in the middle of one canvas, at its own scale, its border stretched to the canvas's (frames) or nothing around
it (keypoints).

python -m benchmarks.ut_interaction ../shared/ut_interaction ut            # MoveNet's people
python -m benchmarks.ut_interaction ../shared/ut_interaction ut keypoints  # the small ONNX network's
"""

import shutil
import sys
from pathlib import Path

import numpy as np

from common.frames import FRAME_NAME
from common.video import encode_jpeg, frames_of, resize_short_side
from pose.keypoints import FILE_NAME, load_keypoints, save_keypoints

SHORT_SIDE = 128  # of the frames that are written


def main(source: Path, out: Path, poses: str = "keypoints_movenet") -> None:
    """Write frames and keypoints of every clip of `source`, and its lists, below `out`; `poses` is a folder in it."""
    clips = {path.stem: list(frames_of(path)) for path in sorted(source.glob("videos/*/*.avi"))}
    canvas = tuple(max(frames[0].shape[axis] for frames in clips.values()) for axis in (0, 1))
    for name, frames in clips.items():
        height, width = frames[0].shape[:2]
        top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
        border = ((top, canvas[0] - height - top), (left, canvas[1] - width - left), (0, 0))
        folder = out / "frames" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(frames, 1):
            picture = resize_short_side(np.pad(frame, border, mode="edge"), SHORT_SIDE)
            (folder / FRAME_NAME.format(number)).write_bytes(encode_jpeg(picture))
        data = load_keypoints(source / poses / name.removeprefix("v_") / FILE_NAME)
        people = data.keypoints.copy()
        people[..., :2] = (people[..., :2] * (width, height) + (left, top)) / canvas[::-1]
        people[people[..., 2] == 0] = 0
        folder = out / "pose_flow" / name.removeprefix("v_")
        folder.mkdir(parents=True, exist_ok=True)
        save_keypoints(folder / FILE_NAME, people, data.frame, data.num_frames, canvas)
    shutil.copytree(source / "list", out / "list", dirs_exist_ok=True)
    print(f"{len(clips)} clips on canvases of {canvas[1]}x{canvas[0]} pixels")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
