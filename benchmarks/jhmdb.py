"""JHMDB (Jhuang et al., ICCV 2013) as `benchmarks.systems` takes it: lists, keypoints, and validation by sources.

SOURCE holds what the site's two archives do, ReCompress_Videos/<class>/<clip>.avi and <class>_test_split<N>.txt; or
videos, list and keypoints in this project's form. OUT gets the lists of the three official splits, 01 to 03, and of
val01 to val03, which train on four fifths of a training list and test on the rest: no video of a source is in both.

python -m benchmarks.jhmdb SOURCE runs/jhmdb
python process_pose.py --frames runs/jhmdb/videos --out runs/jhmdb/pose_flow --model onnx --pose-weights movenet.onnx
python -m benchmarks.systems runs/jhmdb --splits val01 val02 val03 --only skeleton    # to choose by
python -m benchmarks.systems runs/jhmdb --splits 01 02 03 --seeds 0 1 2 --only skeleton motion_pose
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.atomic import atomic_write
from common.cli import ArgumentParser, UserError, run
from dataloader.names import Video
from dataloader.split_train_test_video import Split, read_split
from UCF_list.make_lists import choose_groups, find_groups

SPLITS = ("01", "02", "03")
SHARE = 0.2  # of a class's training videos to validate on
# HMDB51's names tell a clip's source: SOURCE_<visible body>_<camera>_np<people>_<view>_<quality>_<number>.
SOURCE_OF_CLIP = re.compile(r"^(.+)_[fhlu]_[cn]m_np\d+_")


def get_args_parser() -> ArgumentParser:
    """Command line of this benchmark."""
    parser = ArgumentParser(description="Write JHMDB's lists, with validation lists, and link its videos and poses.")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of the unpacked archives")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for list, videos and pose_flow")
    return parser


def lists_in(source: Path) -> Path:
    """The folder of the lists below `source`."""
    found = [*source.rglob("trainlist01.txt"), *source.rglob("*_test_split1.txt")]
    if not found:
        raise UserError(f"{source}: no lists (<class>_test_split1.txt) in it; unpack splits.zip there")
    return found[0].parent


def validation_split(split: Split) -> Split:
    """Training videos in four fifths, and the rest of them, by source, in place of the test videos."""
    named = any(SOURCE_OF_CLIP.match(video.name) for video in split.train)
    source_of = find_groups(split.train, SOURCE_OF_CLIP if named else None, None)
    held_out = choose_groups(source_of, SHARE, seed=0, giving=set(split.classes))
    train = [video for video in split.train if source_of[video] not in held_out]
    return Split(split.classes, train, [video for video in split.train if source_of[video] in held_out])


def write_split(folder: Path, number: str, split: Split) -> None:
    """Write the training and test list of a split."""
    _write(folder / f"trainlist{number}.txt", [_line(video) for video in split.train])
    _write(folder / f"testlist{number}.txt", [video.path for video in split.test])
    print(f"split {number}: {len(split.train)} videos to train on, {len(split.test)} to test on")


def _line(video: Video) -> str:
    return f"{video.path} {video.label + 1}"


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Write the lists, link the videos, copy the keypoints if there are any."""
    args = get_args_parser().parse_args(argv)
    source, out = args.source, args.out
    videos = next((path for path in (source / "ReCompress_Videos", source / "videos") if path.is_dir()), None)
    if videos is None:
        raise UserError(f"{source}: no folder ReCompress_Videos in it; unpack JHMDB_video.zip there")
    for number in SPLITS:
        split = read_split(lists_in(source), number, "classInd.txt")
        write_split(out / "list", number, split)
        write_split(out / "list", f"val{number}", validation_split(split))
    _write(out / "list/classInd.txt", [f"{number} {name}" for number, name in enumerate(split.classes, 1)])
    if not (out / "videos").exists():
        (out / "videos").symlink_to(videos.resolve(), target_is_directory=True)
    if (source / "keypoints").is_dir():
        shutil.copytree(source / "keypoints", out / "pose_flow", dirs_exist_ok=True)


if __name__ == "__main__":
    run(main)
