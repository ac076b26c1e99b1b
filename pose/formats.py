"""Pose files of other programs, read as `Keypoints`; and PYSKL's annotations, written."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from common.cli import UserError
from common.frames import VIDEO_EXTENSIONS
from pose.coco import COCO_PARTS, add_neck
from pose.keypoints import Keypoints, make_keypoints
from pose.people import follow_people, main_tracks
from pose.skeleton import NUM_PARTS

FORMS = {
    "openpose": "OpenPose's JSON, a file a frame",
    "coco": "COCO's annotations or results, JSON",
    "alphapose": "AlphaPose's results, JSON",
    "yolo": "YOLO-pose's text files, one a frame",
    "pyskl": "the pickle of PYSKL and MMAction2",
}
# The place of each of our 18 parts among COCO's 17 (which lack the neck), OpenPose's COCO-18 and its BODY_25.
COCO_17 = tuple(COCO_PARTS.index(part) if part in COCO_PARTS else 0 for part in range(NUM_PARTS))
ORDERS = {17: COCO_17, 18: tuple(range(18)), 25: (*range(8), *range(9, 19))}
FRAME = re.compile(r"(.*?)[-_. ]?(\d+)")  # VIDEO_000000000000, frame000001
GENERAL = ("", "frame", "img", "image")  # what files are called in a folder that bears the video's name


class Poses(NamedTuple):
    """The people of one video as a file has them.

    points: float (P, V, 3), x, y and score of V = 17, 18 or 25 parts, in pixels or in [0, 1]; frame: int (P,), from 1.
    size: (height, width) of the pictures in which they were found, None where the file does not tell.
    """

    name: str
    points: np.ndarray
    frame: np.ndarray
    num_frames: int
    size: tuple[int, ...] | None = None


def to_keypoints(poses: Poses, size: tuple[int, int] | None, num_frames: int | None) -> Keypoints:
    """A video's people as this project keeps them; `size` (height, width) and `num_frames`: its frames', if known."""
    name, points, frame, length, theirs = poses
    num_frames, theirs = num_frames or length, theirs or size
    if theirs is None:
        raise UserError(f"{name}: the file does not tell the size of its frames; give --frames, --videos or --size HxW")
    size, pixels = size or theirs, f"{theirs[1]}x{theirs[0]} pixels"
    if abs(theirs[1] * size[0] / (theirs[0] * size[1]) - 1) > 0.03:
        raise UserError(f"{name}: its poses are of {pixels}, its frames {size[1]}x{size[0]}; give those of the poses")
    points = points.astype(np.float64)
    found = np.isfinite(points).all(axis=-1) & (points[..., 2] > 0)
    points[~found] = 0
    if points[..., :2].max(initial=0) > 2:  # else in [0, 1]
        points[..., :2] /= theirs[::-1]
    outside = (np.abs(points[..., :2] - 0.5) > 0.6).any(axis=-1).sum()
    if outside > 0.1 * found.sum():
        raise UserError(f"{name}: its people lie outside {pixels}; give the size that they were found in, --size HxW")
    people = points[:, ORDERS[points.shape[1]]]
    people[..., :2] = people[..., :2].clip(0, 1)
    if points.shape[1] == len(COCO_PARTS):
        add_neck(people)
    some = people[..., 2].any(axis=1)
    if (last := frame[some].max(initial=1)) > num_frames:
        raise UserError(f"{name}: has people in frame {last} of {num_frames}; give the frames that the poses are of")
    return make_keypoints(people[some].astype(np.float32), frame[some], num_frames, size)


# ---- which file is what ----


def recognise(source: Path) -> str:
    """The form, one of `FORMS`, of a file or of the files in a folder."""
    if source.is_file():
        with source.open("rb") as file:
            start = file.read(100).lstrip()[:1]
        if start == b"\x80" or source.suffix in (".pkl", ".pickle"):
            return "pyskl"
        if start in (b"[", b"{"):
            return "coco"
    elif path := next(source.rglob("*.json"), None):
        return "openpose" if "people" in load_json(path) else "coco"
    elif any(source.rglob("*.txt")):
        return "yolo"
    known = ", ".join(f"{form} ({what})" for form, what in FORMS.items())
    raise UserError(f"{source}: no poses of a known form there; known are {known}")


def read_poses(source: Path, form: str, content: Any = None) -> Iterator[Poses]:
    """The videos of a file, or of a folder of files, of the form `form`, one by one; `content` is that of a pickle."""
    if form == "pyskl":
        yield from read_pyskl(content)
    elif form == "openpose":
        yield from gather(group_frames(sorted(source.rglob("*.json"))), openpose_people)
    elif form == "yolo":
        yield from gather(group_frames(sorted(source.rglob("*.txt"))), yolo_people)
    else:
        for path in [source] if source.is_file() else sorted(source.rglob("*.json")):
            yield from read_coco(path)


def group_frames(paths: Iterable[PurePath]) -> dict[str, dict[int, Any]]:
    """Files by video and frame, from 1: `VIDEO_12.txt`, or `12.txt` and `frame12.txt` in a folder VIDEO.

    A video's frames are counted from 1 unless one has the number 0.
    """
    videos: dict[PurePath, dict[int, PurePath]] = {}
    for path in paths:
        if match := FRAME.fullmatch(path.stem.removesuffix("_keypoints")):
            folder = path.parent.parent if path.parent.name == "labels" else path.parent  # Ultralytics' name
            video = folder if match[1].lower() in GENERAL else folder / match[1]
            other = videos.setdefault(video, {}).setdefault(int(match[2]), path)
            if other is not path:
                raise UserError(f"{other} and {path.name}: both are frame {match[2]}; give each video a folder")
    inside = Counter(video.parent for video in videos)
    for video in videos:
        if video in inside or (video.name == video.parent.name and inside[video.parent] > 1):
            raise UserError(f"{video}: files of several videos are mixed; give each video a folder")
    ordered = [{number + (0 in files): files[number] for number in sorted(files)} for files in videos.values()]
    return dict(zip(video_names(list(videos)), ordered, strict=True))


def video_names(paths: list[PurePath]) -> list[str]:
    """The last part of each path, without a video's extension, or the last two where several have the same."""
    paths = [path.with_suffix("") if path.suffix.lower() in VIDEO_EXTENSIONS else path for path in paths]
    count = Counter(path.name for path in paths)
    names = ["/".join(path.parts[-2:]) if count[path.name] > 1 else path.name for path in paths]
    if wrong := [name for name in names if not name or name.startswith(".") or "/." in name]:
        raise UserError(f"{wrong[0]!r} cannot be the name of a video; rename it")
    return names


# ---- the forms ----


def gather(videos: dict[str, dict[int, Any]], people_of: Callable[[Any], Iterable]) -> Iterator[Poses]:
    """The people of each video, from its files by frame and a function of a file; people are flat lists of numbers."""
    for name, files in videos.items():
        rows = [(number, person) for number, file in files.items() for person in people_of(file)]
        points = np.array([person for _, person in rows], np.float64)
        points = points.reshape(len(rows), -1, 3) if rows else np.zeros((0, 17, 3))
        if points.shape[1] not in ORDERS:
            raise UserError(f"{name}: its people have {points.shape[1]} parts; {', '.join(map(str, ORDERS))} are read")
        yield Poses(name, points, np.array([number for number, _ in rows], np.int64), max(files))


def load_json(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error})") from None


def openpose_people(path: Path) -> list[list[float]]:
    """The people in a file of OpenPose's `--write_json`, or that of its first versions."""
    return [person.get("pose_keypoints_2d") or person["pose_keypoints"] for person in load_json(path)["people"]]


def yolo_people(path: Path) -> list[np.ndarray]:
    """The people in a file of Ultralytics' `save_txt`: class, box, 17 × (x, y[, score]), perhaps score and track."""
    people = []
    for line in path.read_text(encoding="utf-8").splitlines():
        values = np.array(line.split(), np.float64)
        scored = len(values) > 41
        if len(values) not in ((56, 57, 58) if scored else (39, 40, 41)):
            raise UserError(f"{path}: a line of {len(values)} numbers; a class, a box and 17 parts have 39 or 56")
        parts = values[5:56].reshape(17, 3) if scored else np.c_[values[5:39].reshape(17, 2), np.ones(17)]
        people.append(parts * parts[:, :2].any(axis=1, keepdims=True))  # at (0, 0): a score below 0.5
    return people


def read_coco(path: Path) -> Iterator[Poses]:
    """COCO's annotations (with `images`) or results (a list), of AlphaPose as well: the first 17 parts.

    An annotation's parts are visible (score 1), hidden (0.5) or missing.
    """
    content = load_json(path)
    if results := isinstance(content, list):
        images = [{"id": key} for key in dict.fromkeys(person["image_id"] for person in content)]
        content = {"annotations": content, "images": images}
    root = PurePath(path.parent.name if path.stem == "alphapose-results" else path.stem)
    file_of, size_of = {}, {}
    people: dict[PurePath, list] = {}
    for image in content["images"]:
        name = str(image["id"] if results else image["file_name"])
        if results and re.fullmatch(r"(0|[1-9]\d*)\.jpg", name):  # AlphaPose's of a video: from 0, if there is somebody
            name = f"{int(name[:-4]) + 1}"
        file = file_of[image["id"]] = root / name
        size_of[file] = image.get("height"), image.get("width")
    for person in content["annotations"]:
        people.setdefault(file_of[person["image_id"]], []).append(person["keypoints"][:51])
    videos = group_frames(file_of.values())
    if sum(map(len, videos.values())) < len(file_of):
        raise UserError(f"{path}: has images whose names do not end in the number of a frame")
    for poses in gather(videos, lambda file: people.get(file, ())):
        size, *others = {size_of[file] for file in videos[poses.name].values()}
        if others:
            raise UserError(f"{path}: {poses.name} has frames of several sizes; give each video a file")
        if not results and np.isin(poses.points[..., 2], (0, 1, 2)).all():
            poses.points[..., 2] /= 2
        yield poses._replace(size=None if None in size else size)


def pyskl_videos(content: Any) -> list[tuple[str, dict]]:
    """Name and annotation of each video of PYSKL's and MMAction2's annotations, a list or a dict with `annotations`."""
    annotations = content["annotations"] if isinstance(content, dict) else content
    return list(zip(video_names([PurePath(item["frame_dir"]) for item in annotations]), annotations, strict=True))


def read_pyskl(content: Any) -> Iterator[Poses]:
    """The videos of `pyskl_videos`."""
    for name, item in pyskl_videos(content):
        points = item["keypoint"]
        if points.ndim != 4 or points.shape[2:] not in ((17, 2), (18, 2)):
            wanted = "2-D ones (people, frames, 17 or 18 parts, 2) are read"
            raise UserError(f"{name}: 3-D or other skeletons, 'keypoint' {points.shape}; {wanted}")
        people, length, parts, _ = points.shape
        scores = item.get("keypoint_score")
        scores = points.any(axis=-1) if scores is None else scores
        points = np.concatenate((points, scores.reshape(people, length, parts, 1)), axis=-1)
        points, frame = points.swapaxes(0, 1).reshape(-1, parts, 3), np.repeat(np.arange(1, length + 1), people)
        size = tuple(int(side) for side in item.get("img_shape", ())) or None
        yield Poses(name, points, frame, int(item.get("total_frames", length)), size)


# ---- written ----


def pyskl_annotation(name: str, keypoints: Keypoints) -> dict:
    """A video's people as an annotation of PYSKL: COCO's 17 parts in pixels, each of the M rows a person followed.

    The main person comes first. A row that a person has left is free for another. Numbers are of the shortest type that
    gives the same keypoints again.
    """
    people, tracks = keypoints.keypoints[:, list(COCO_PARTS)].astype(np.float64), follow_people(keypoints)
    taken, row = np.zeros((1, keypoints.num_frames), bool), np.zeros(len(people), int)
    for track in main_tracks(keypoints, tracks).tolist():
        here = np.flatnonzero(tracks == track)
        span = slice(keypoints.frame[here[0]] - 1, keypoints.frame[here[-1]])
        if taken[:, span].any(axis=1).all():
            taken = np.pad(taken, ((0, 1), (0, 0)))
        row[here] = taken[:, span].any(axis=1).argmin()
        taken[row[here[0]], span] = True
    values = np.zeros((*taken.shape, 17, 3))
    values[row, keypoints.frame - 1] = people * (people[..., 2:] > 0)
    size = keypoints.frame_size
    arrays = {"keypoint": _shortest(values[..., :2], size[::-1]), "keypoint_score": _shortest(values[..., 2], 1)}
    described = {"frame_dir": name, "img_shape": size, "original_shape": size, "total_frames": keypoints.num_frames}
    return described | arrays


def _shortest(values: np.ndarray, scale: Any) -> np.ndarray:
    """`values` × `scale` in the shortest type that, divided by `scale`, gives the same float32."""
    scaled = values * scale
    for kind in (np.float16, np.float32):
        with np.errstate(over="ignore", invalid="ignore"):
            if ((scaled.astype(kind).astype(np.float64) / scale).astype(np.float32) == values.astype(np.float32)).all():
                return scaled.astype(kind)
    return scaled
