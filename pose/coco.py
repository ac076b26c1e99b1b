"""People from COCO's 17 keypoints, as MoveNet, YOLO-pose and, through rtmlib, RTMPose and RTMO find them."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.cli import UserError
from common.download import cache_folder, file_hash
from pose.onnx_network import check_provider, find_provider, fit
from pose.paf import MIN_PARTS
from pose.skeleton import NUM_PARTS

# COCO's keypoints, in its order, as parts of the skeleton; the neck is not among them.
COCO_PARTS = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
NECK, SHOULDERS = 1, (2, 5)
PART_SCORE = 0.3  # of RTMPose, below which MMPose does not draw a part either
MOVENET_SCORE = 0.2  # of people and of their parts
YOLO_SCORE, YOLO_PART_SCORE, OVERLAP = 0.25, 0.5, 0.7  # of people, of parts, of two boxes: as Ultralytics has them
INSTALL = "pip install onnxruntime opencv-python-headless, then pip install --no-deps rtmlib"
DETECTION_SCORE = 0.5  # of the detector's boxes, and of RTMO's people


def people_from_coco(keypoints: np.ndarray, scores: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """People, float32 (P, 18, 3), from keypoints (P, 17, 2) in pixels and their scores (P, 17), 0 where not found.

    People of fewer than 4 parts are left out.
    """
    people = np.zeros((len(keypoints), NUM_PARTS, 3), np.float32)
    height, width = frame_size
    people[:, COCO_PARTS, :2] = (keypoints / (width, height)).clip(0, 1)
    people[:, COCO_PARTS, 2] = scores
    add_neck(people)
    return people[np.count_nonzero(people[..., 2], axis=1) >= MIN_PARTS]


def add_neck(people: np.ndarray) -> None:
    """Put the neck of people (P, 18, 3) between the shoulders, with the lower of their scores; clear missing parts."""
    right, left = (people[:, shoulder] for shoulder in SHOULDERS)
    people[:, NECK, :2] = (right[:, :2] + left[:, :2]) / 2
    people[:, NECK, 2] = np.minimum(right[:, 2], left[:, 2])
    people *= people[..., 2:] > 0


def group_rtmpose(raw: tuple[np.ndarray, ...], frame_size: tuple[int, int]) -> np.ndarray:
    """People from RTMPose's keypoints (P, 17, 2) in pixels and their scores (P, 17); a part needs a score of 0.3."""
    keypoints, scores = raw
    return people_from_coco(keypoints, np.where(scores >= PART_SCORE, scores, 0).clip(0, 1), frame_size)


# ---- MoveNet and YOLO-pose ----


def group_movenet(raw: tuple[np.ndarray, ...], frame_size: tuple[int, int]) -> np.ndarray:
    """People from MoveNet MultiPose's output (6, 56): 17 × (y, x, score) in [0, 1] of its input, a box, a score."""
    found, size = raw
    height, width, scale = fit(frame_size, size)
    found = found[found[:, 55] >= MOVENET_SCORE]
    parts = found[:, :51].reshape(-1, 17, 3)
    points = parts[..., 1::-1] * (width / scale, height / scale)
    return people_from_coco(points, np.where(parts[..., 2] >= MOVENET_SCORE, parts[..., 2], 0), frame_size)


def group_yolo(raw: tuple[np.ndarray, ...], frame_size: tuple[int, int]) -> np.ndarray:
    """People from YOLO-pose's output: (56, N), a box (centre, size), score, 17 × (x, y, score) in pixels of its input,
    of which non-maximum suppression leaves one a person; or (N, 57), boxes by their corners, where that has been done.
    """
    import cv2  # here, for scripts that draw poses do without it

    found, size = raw
    scale = fit(frame_size, size)[2]
    if found.shape[0] == 56:
        found = found.T[found[4] >= YOLO_SCORE]
        boxes = np.concatenate((found[:, :2] - found[:, 2:4] / 2, found[:, 2:4]), axis=1)
        found = found[np.array(cv2.dnn.NMSBoxes(boxes, found[:, 4], YOLO_SCORE, OVERLAP), int).ravel()]
        parts = found[:, 5:].reshape(-1, 17, 3)
    else:
        parts = found[found[:, 4] >= YOLO_SCORE, 6:].reshape(-1, 17, 3)
    scores = np.where(parts[..., 2] >= YOLO_PART_SCORE, parts[..., 2], 0)
    return people_from_coco(parts[..., :2] / scale, scores, frame_size)


# ---- RTMPose and RTMO ----


def load_rtmpose(mode: str = "balanced", device: str = "auto") -> tuple[Callable, Callable, dict]:
    """The stages `prepare` and `infer` of an `Estimator`, and the settings in use, for a mode of `RTMPOSE_MODES`.

    `lightweight`, `balanced` and `performance` find people with YOLOX and then each one's parts with RTMPose-s, -m or
    -x; `rtmo` is RTMO-m, which does both at once. Weights are downloaded once.
    """
    try:
        import rtmlib
        from rtmlib.tools.file import download_checkpoint
    except ImportError as error:
        reason = "is not installed" if error.name == "rtmlib" else f"cannot be imported ({error})"
        raise UserError(f"--model rtmpose needs rtmlib, which {reason}: {INSTALL}") from None
    name = find_provider(device)[0]
    known = rtmlib.Body.RTMO_MODE["balanced"] if mode == "rtmo" else rtmlib.Body.MODE[mode]
    files = {part: _weights(known[part], download_checkpoint) for part in ("det", "pose") if part in known}

    def load(tool: Callable, part: str, **options: Any):
        size = known[f"{part}_input_size"]
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what it loads
            loaded = tool(str(files[part]), size, backend="onnxruntime", device=name, **options)
        check_provider(loaded.session, name, device, files[part])
        return loaded

    if mode == "rtmo":
        one_stage = load(rtmlib.RTMO, "pose", score_thr=DETECTION_SCORE)
    else:
        detector, pose = load(rtmlib.YOLOX, "det"), load(rtmlib.RTMPose, "pose")

    nobody = np.zeros((0, len(COCO_PARTS), 2)), np.zeros((0, len(COCO_PARTS)))

    def find(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bgr = np.ascontiguousarray(rgb[..., ::-1])  # which YOLOX and RTMO were trained on, and RTMPose on RGB
        if mode == "rtmo":
            return one_stage(bgr)
        image, ratio = detector.preprocess(bgr)
        [found] = detector.inference(image)[0]  # (N, 5): boxes, from which the network took the doubles, and scores
        boxes = found[found[:, 4] >= DETECTION_SCORE, :4] / ratio
        # Without boxes it would look for one person in the whole picture.
        return pose(rgb, bboxes=boxes) if len(boxes) else nobody

    def infer(frames: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [find(frame) for frame in frames]

    return np.ascontiguousarray, infer, {"weights": file_hash(*files.values()), "rtmpose_mode": mode}


def _weights(url: str, download_checkpoint: Callable) -> Path:
    """The network at `url`, an archive, in torch.hub's cache; rtmlib downloads and unpacks it on the first call."""
    path = cache_folder() / (PurePosixPath(url).stem + ".onnx")
    if path.exists():
        return path
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own, so that half of a file is never taken for the whole one.
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder, quiet:
            Path(download_checkpoint(url, folder)).replace(path)
    except Exception as error:  # of urllib, zipfile, and rtmlib's own
        remedy = f"get that archive elsewhere and put the end2end.onnx in it to {path}, or take --model onnx"
        raise UserError(f"{url}: cannot be downloaded ({error}); {remedy}") from None
    print(f"downloaded {url} to {path}", file=sys.stderr)
    return path
