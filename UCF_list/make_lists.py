"""Class indices and split lists: UCF101's own, of a subset of its classes, or of a folder of videos.

python -m UCF_list.make_lists
python -m UCF_list.make_lists --classes Archery,Diving --split 05
python -m UCF_list.make_lists --videos my_videos --out my_lists
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

if not __package__:
    print("error: run it in the project's folder as a module: python -m UCF_list.make_lists", file=sys.stderr)
    sys.exit(2)

from common.atomic import atomic_write
from common.cli import ArgumentParser, UserError, examples, run
from dataloader.own_videos import find_groups, find_videos, own_group, split_videos

HERE = Path(__file__).resolve().parent
TEST_GROUPS = {"01": range(1, 8), "02": range(8, 15), "03": range(15, 22)}
SUBSET_SPLIT = "04"
OWN_OPTIONS = ("test_fraction", "val_fraction", "seed", "groups_from", "groups_csv")
SUBSET = (
    "Archery,BaseballPitch,BodyWeightSquats,CliffDiving,Diving,FloorGymnastics,GolfSwing,JumpingJack,JumpRope,"
    "Lunges,MoppingFloor,PullUps,Skiing,TaiChi,WallPushups"
)


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        prog="python -m UCF_list.make_lists",
        description="Write class indices and split lists. Without arguments: the ten files of UCF101, whose split "
        "04 is split 01 limited to 15 classes.",
        epilog=examples(__doc__),
    )
    add = parser.add_argument
    add("--out", type=Path, help="folder for the lists; --videos needs it, the others default to this script's")
    add("--split", help="number of the split to write: of --classes any but 01 to 04, of --videos 01 unless given")
    add = parser.add_argument_group(
        "another subset of UCF101's classes", "writes classInd_split<NN>.txt, trainlist<NN>.txt and testlist<NN>.txt"
    ).add_argument
    add("--classes", help="names with commas between them, or a file with one a line")
    add("--like", choices=sorted(TEST_GROUPS), default="01", help="split whose test groups to use")
    own = parser.add_argument_group(
        "own videos",
        "Writes classInd.txt and train-, val- and testlist<NN>.txt. Each class is tested on about --test-fraction of "
        "its videos, at least one, and trained on the others, at least one. Of these, about --val-fraction become "
        "validation videos, to choose the best epoch on: at least one of each class that has three groups left to "
        "train on. Videos of one group stay together: names that carry _gNN_, as UCF101's, are grouped by that number "
        "within their class; groups of --groups-from and --groups-csv stay together across classes (a person, say, or "
        "a camera). A video without a group is one of its own. Groups are held out in an order that a hash of --seed "
        "and the group's name gives, if that brings their classes nearer to the fraction; so the same videos and seed "
        "give the same lists.",
    )
    add = own.add_argument
    add("--videos", type=Path, help="folder with one subfolder of videos per class")
    add("--test-fraction", type=float, default=0.3, help="share of each class to test on")
    add("--val-fraction", type=float, default=0.15, help="share of the others to validate on; 0: no validation list")
    add("--seed", type=int, default=0, help="another seed, another choice of groups")
    add = own.add_mutually_exclusive_group().add_argument
    text = "regex searched in each file's stem, whose first group (or that named 'group') is the video's group"
    add("--groups-from", metavar="REGEX", help=text)
    text = "CSV file of lines VIDEO,GROUP, such as wave/clip7.mp4,anna; the class may be omitted where it is clear"
    add("--groups-csv", type=Path, metavar="FILE", help=text)
    return parser


def clip_counts() -> dict[str, list[int]]:
    """Number of clips of each UCF101 class, in the official order, in its groups 1 to 25."""
    # One digit a group; a class's clips are numbered from 1 without gaps.
    lines = (HERE / "clips_per_group.txt").read_text(encoding="ascii").splitlines()
    return {name: [int(digit) for digit in digits] for name, digits in map(str.split, lines)}


def ucf101_lists(test_groups: range, chosen: list[str] | None = None) -> tuple[list[str], list[str]]:
    """Lines of the training and test list of the `chosen` classes (None: all 101), by class, group and clip.

    Training lines end with the class's number in the 101.
    """
    train, test = [], []
    for number, (name, counts) in enumerate(clip_counts().items(), 1):
        if chosen is not None and name not in chosen:
            continue
        file_stem = "HandStandPushups" if name == "HandstandPushups" else name  # as the data set spells it
        for group, clips in enumerate(counts, 1):
            paths = [f"{name}/v_{file_stem}_g{group:02d}_c{clip:02d}.avi" for clip in range(1, clips + 1)]
            if group in test_groups:
                test += paths
            else:
                train += [f"{path} {number}" for path in paths]
    return train, test


def make_ucf101_lists(out: Path) -> list[Path]:
    """Write the ten files of UCF101 to the folder `out`; return their paths."""
    written = [_write(out / "classInd.txt", _numbered(clip_counts()))]
    for split, groups in TEST_GROUPS.items():
        written += _write_lists(out, split, *ucf101_lists(groups))
    return written + make_subset_lists(out, SUBSET.split(","), SUBSET_SPLIT, "01", "classInd15.txt")


def make_subset_lists(out: Path, chosen: list[str], split: str, like: str, index: str) -> list[Path]:
    """Write class index `index` and the lists of the classes `chosen`, with the test groups of the split `like`.

    Returns the paths. Raises `UserError` for an unknown class or one that is given twice.
    """
    known = clip_counts()
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else "see classInd.txt for the names"
            raise UserError(f"--classes: UCF101 has no class {name!r}; {hint}")
        if chosen.count(name) > 1:
            raise UserError(f"--classes: {name} is given twice; give it once")
    lists = ucf101_lists(TEST_GROUPS[like], chosen)
    return [_write(out / index, _numbered(name for name in known if name in chosen)), *_write_lists(out, split, *lists)]


def read_classes(text: str) -> list[str]:
    """Class names from `A,B,C`, or from a file with one a line, numbered or not."""
    names = text.split(",")
    if Path(text).is_file():
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{text}: not a text file; expected one class name a line") from None
        names = [re.sub(r"^\s*\d+\s+", "", line) for line in lines]
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise UserError(f"--classes {text!r}: no class names in it; give names with commas between them, or a file")
    return names


def make_own_lists(args: argparse.Namespace) -> list[Path]:
    """Write the class index and the lists of a folder of class folders by the rule in `--help`; return the paths.

    Prints what the groups came to. Without validation videos there is no validation list, and one of an earlier
    call goes. Raises `UserError` and writes nothing if a class cannot be split or a name cannot stand in a list.
    """
    out, split = args.out, args.split or "01"
    if not 0 < args.test_fraction < 1:
        raise UserError(f"--test-fraction {args.test_fraction}: must lie between 0 and 1, such as 0.3")
    if not 0 <= args.val_fraction < 1:
        raise UserError(f"--val-fraction {args.val_fraction}: must lie between 0 and 1, such as 0.15, or be 0")
    if out.resolve() == HERE:
        raise UserError(f"--out {out}: holds UCF101's lists; give another folder")
    found = find_videos(args.videos)
    groups = find_groups(found, args.groups_from, args.groups_csv)
    parts = split_videos(groups, args.test_fraction, args.val_fraction, args.seed)
    lone = sum(group == own_group(video) for video, group in groups.items())
    print(f"{len(found)} videos in {len(set(groups.values()))} groups")
    if lone:
        where = f"are not in {args.groups_csv}" if args.groups_csv else "carry no group"
        print(f"{lone} names {where}; each of these videos counts as a group of its own")
    classes = dict.fromkeys(video.class_name for video in found)
    train, val = ([f"{video.path} {video.label + 1}" for video in parts[part]] for part in ("train", "val"))
    test = [video.path for video in parts["test"]]
    written = [_write(out / "classInd.txt", _numbered(classes)), *_write_lists(out, split, train, test)]
    val_list = out / f"vallist{split}.txt"
    if val:
        written.append(_write(val_list, val))
        print(f"training with --val-list {val_list.name} chooses the best epoch on the validation videos")
    else:
        val_list.unlink(missing_ok=True)
    without = [name for name in classes if name not in {video.class_name for video in parts["val"]}]
    if args.val_fraction and without:
        print(f"no validation videos of {len(without)} class(es), which have too few groups: {', '.join(without)}")
    return written


def _numbered(names: Iterable[str]) -> list[str]:
    return [f"{number} {name}" for number, name in enumerate(names, 1)]


def _write_lists(out: Path, split: str, train: list[str], test: list[str]) -> list[Path]:
    return [_write(out / f"trainlist{split}.txt", train), _write(out / f"testlist{split}.txt", test)]


def _write(path: Path, lines: list[str]) -> Path:
    with atomic_write(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def main(argv: list[str] | None = None) -> None:
    """Write the lists that the command line asks for and print their paths and lengths."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    out = args.out or HERE
    if args.split and not re.fullmatch(r"[0-9A-Za-z-]+", args.split):
        parser.error(f"--split {args.split!r}: expected a number such as 05")
    belongs = {"like": "classes"} | dict.fromkeys(OWN_OPTIONS, "videos")
    for option, owner in belongs.items():
        if getattr(args, option) != parser.get_default(option) and not getattr(args, owner):
            parser.error(f"--{option.replace('_', '-')} goes with --{owner}")
    if args.videos and args.classes:
        parser.error("--videos and --classes exclude each other")
    if args.videos:
        if args.out is None:
            parser.error("--videos needs --out FOLDER")
        written = make_own_lists(args)
    elif args.classes:
        if args.split in (None, *TEST_GROUPS, SUBSET_SPLIT):
            parser.error("--classes needs a --split of its own, such as 05; 01 to 04 are taken")
        index = f"classInd_split{args.split}.txt"
        written = make_subset_lists(out, read_classes(args.classes), args.split, args.like, index)
    elif args.split:
        parser.error("--split goes with --classes or --videos")
    else:
        written = make_ucf101_lists(out)
    for path in written:
        print(f"{path}: {path.read_bytes().count(10)} lines")


if __name__ == "__main__":
    run(main)
