"""Poses of other programs (OpenPose, COCO, AlphaPose, YOLO-pose, PYSKL) as pose folders, and these for PYSKL.

python convert_poses.py openpose_json data/pose_flow --frames data/jpegs_256
python convert_poses.py yolo_labels data/pose_flow --videos my_videos
python convert_poses.py ucf101_hrnet.pkl data/pose_flow \\
    --class-index UCF_list/classInd.txt --lists data/lists
python convert_poses.py data/pose_flow poses.pkl --form pyskl --split 01
"""

import argparse
import contextlib
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any

from tqdm import tqdm

from common import video as videos
from common.atomic import atomic_write, recover_folders, replace_folder, temporary_name
from common.cli import ArgumentParser, UserError, examples, image_size, probability, run
from common.frames import find_frame_folders, list_frames, read_image
from common.records import check_made, read_record, write_record
from dataloader.frame_index import find_folders
from dataloader.names import find_videos, pose_name
from dataloader.split_train_test_video import read_class_index, read_split
from fusion.scores import unpickle
from pose import formats
from pose.keypoints import FILE_NAME, frames_with_people, load_keypoints, save_keypoints

MORE = "Where OUT ends in .pkl it goes the other way round: from pose folders to PYSKL's annotations."


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0], epilog=examples(__doc__, MORE))
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="a file or folder of another program; or pose folders")
    add("out", type=Path, metavar="OUT", help="where the pose folders go; or a file .pkl")
    add("--form", choices=formats.FORMS, help="of the other program (default: what the content tells)")
    text = "parts of lower scores are not found; 0.3, as for RTMPose, with networks that place every part, as HRNet"
    add("--part-score", type=probability, metavar="X", default=0.0, help=text)
    add = parser.group("frames, of which SOURCE may not tell the size").add_mutually_exclusive_group().add_argument
    add("--frames", type=Path, metavar="DIR", help="folders of the frames that the poses are of")
    add("--videos", type=Path, metavar="DIR", help="the videos that the poses are of")
    add("--size", type=image_size, metavar="HxW", help="height and width of all frames in pixels")
    add = parser.group("lists, with PYSKL's files").add_argument
    add("--lists", type=Path, metavar="DIR", help="write class index and lists of the file's splits")
    add("--class-index", type=Path, metavar="FILE", help="names of the classes, in the order of the file's labels")
    add("--split", metavar="NN", help="of --ucf-list: write its videos with their labels into OUT.pkl")
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="folder of class index and lists")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    args = get_args_parser().parse_args(argv)
    args.source = args.source.absolute()
    if args.out.suffix in (".pkl", ".pickle"):
        export(args)
        return
    form = args.form or formats.recognise(args.source)
    check_made(args.out, {"people": {"model": form}})
    content = unpickle(args.source) if form == "pyskl" else None
    try:
        lists = pyskl_lists(content, args) if args.lists else {}
        write_folders(formats.read_poses(args.source, form, content), args, {"model": form})
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        reason = f"{formats.FORMS[form]} ({type(error).__name__}: {str(error)[:100]})"
        raise UserError(f"{args.source}: is not of the form {form}, {reason}; see --form") from None
    for path, lines in lists.items():
        with atomic_write(path, "w") as file:
            file.write("\n".join(lines) + "\n")
        print(f"written: {path}, {len(lines):,} lines")


def write_folders(videos: Iterable[formats.Poses], args: argparse.Namespace, made: dict) -> None:
    """Write a pose folder of each video, `made` so; they appear, all or none, when the last one is written."""
    recover_folders(args.out)
    temporary, frames = temporary_name(args.out / "poses"), frames_of(args)
    lengths: dict[str, int] = {}
    empty = 0
    try:
        for poses in tqdm(videos, unit=" videos", disable=not sys.stderr.isatty()):
            name = pose_name(poses.name)
            if name in lengths:
                raise UserError(f"{args.source}: two videos are called {name}; give each a name of its own")
            poses.points[..., 2][poses.points[..., 2] < args.part_score] = 0
            size, num_frames, settings = frames(name)
            keypoints = formats.to_keypoints(poses, size, num_frames)
            save_keypoints(temporary / name / FILE_NAME, *vars(keypoints).values())
            write_record(temporary / name, {"frames": settings, "people": made})
            lengths[name] = keypoints.num_frames
            empty += keypoints.num_frames - frames_with_people(keypoints)
        if not lengths:
            raise UserError(f"{args.source}: no videos in it; the files of frames must end in their numbers")
        for name in lengths:
            (args.out / name).parent.mkdir(parents=True, exist_ok=True)
            replace_folder(temporary / name, args.out / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    total = sum(lengths.values())
    print(f"{len(lengths):,} videos, {total:,} frames, nobody in {100 * empty / total:.1f} % of them: {args.out}")


def frames_of(args: argparse.Namespace) -> Callable[[str], tuple[tuple[int, int] | None, int | None, dict | None]]:
    """A function that tells, as far as the options do, size and number of a video's frames, and how they were made."""
    root = args.frames or args.videos
    if root is None:
        return lambda name: (args.size, None, None)
    found = {name: root / name for name in find_frame_folders(root)} if args.frames else find_videos(root)
    named = {pose_name(name): path for name, path in found.items()}
    plain = {PurePath(name).name: path for name, path in named.items()}

    def look(name: str) -> tuple[tuple[int, int], int | None, dict | None]:
        path = named.get(name) or plain.get(PurePath(name).name)
        if path is None:
            raise UserError(f"{root}: holds no {name}, of which {args.source} has poses")
        if args.frames:
            frames = list_frames(path)
            return read_image(frames[0]).shape[:2], len(frames), read_record(path).get("frames")
        with contextlib.closing(videos.frames_of(path)) as pictures:
            return next(pictures).shape[:2], None, None

    return look


# ---- PYSKL's lists and files ----


def pyskl_lists(content: Any, args: argparse.Namespace) -> dict[Path, list[str]]:
    """Lines of the class index and of the lists that an annotation file's splits make, by path.

    `train1` and `test1` are split 01, `xsub_train` and `xsub_val` are xsub, `train` and `val` 01. Where a split has no
    test list, its validation list is that.
    """
    if not isinstance(content, dict) or not content.get("split"):
        raise UserError(f"{args.source}: has no splits for --lists; see python -m UCF_list.make_lists")
    videos = {}
    for name, item in formats.pyskl_videos(content):
        videos[item["frame_dir"]] = PurePath(pose_name(name)).name, int(item.get("label", -1))
    classes = [f"class{label:03d}" for label in range(min(max(label for _, label in videos.values()), 9999) + 1)]
    classes = read_class_index(args.class_index) if args.class_index else classes
    places = {name.casefold(): place for place, name in enumerate(classes)}
    for name, label in videos.values():
        ucf101 = re.fullmatch(r"(.*)_g\d+_c\d+", name)
        if not 0 <= label < len(classes) or (ucf101 and places.get(ucf101[1].casefold(), label) != label):
            index = args.class_index or "no --class-index"
            raise UserError(f"{args.source}: {name} has label {label} (from 0), which is another class by {index}")
    lists = {"classInd.txt": [f"{number} {name}" for number, name in enumerate(classes, 1)]}
    for key, names in sorted(content["split"].items()):  # test before val
        match = re.fullmatch(r"(.*?)_?(train|val|test)_?(.*)", key)
        if match is None:
            raise UserError(f"{args.source}: has a split {key!r}, which is neither for training nor for testing")
        split = match[1] or match[3].zfill(2 if match[3] else 0) or "01"
        kind = "test" if match[2] == "val" and f"testlist{split}.txt" not in lists else match[2]
        listed = [videos[name] for name in names if name in videos]
        lists[f"{kind}list{split}.txt"] = [f"{classes[label]}/v_{name}.avi {label + 1}" for name, label in listed]
    return {args.lists / name: lines for name, lines in lists.items()}


def export(args: argparse.Namespace) -> None:
    """Write the pose folders in SOURCE as a file of PYSKL's annotations; with `--split`, those of listed videos."""
    found: dict[str | None, Any] = {}
    splits = {}
    if args.split:
        index = (args.class_index or args.ucf_list / "classInd15.txt").absolute()
        split = read_split(args.ucf_list, args.split, str(index))
        before, behind = ("", str(int(args.split))) if args.split.isdigit() else (f"{args.split}_", "")
        for part, videos in (("train", split.train), ("test", split.test)):
            folders = {folder: video for video, folder in find_folders(args.source, videos)}
            splits[before + part + behind] = list(folders)
            found |= folders
    if None in found:
        raise UserError(f"{args.source}: has no pose folder of {found[None].path}, which is listed")
    found = found or dict.fromkeys(find_frame_folders(args.source))
    if not found:
        raise UserError(f"{args.source}: no pose folders in it; process_pose.py writes them")
    annotations = []
    for name, video in tqdm(found.items(), unit=" videos", disable=not sys.stderr.isatty()):
        annotation = formats.pyskl_annotation(name, load_keypoints(args.source / name / FILE_NAME))
        annotations.append(annotation | ({"label": video.label} if video else {}))
    with atomic_write(args.out) as file:
        pickle.dump({"split": splits, "annotations": annotations} if splits else annotations, file, protocol=4)
    print(f"{len(annotations):,} videos: {args.out}")


if __name__ == "__main__":
    run(main)
