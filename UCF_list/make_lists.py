"""Class index and split lists of a folder of videos; those of UCF101 lie beside this file.

python -m UCF_list.make_lists --videos my_videos --out my_lists
python -m UCF_list.make_lists --videos my_videos --out my_lists --groups-csv people.csv --seed 1
"""

import argparse
import csv
import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath

from common.atomic import atomic_write
from common.cli import ArgumentParser, UserError, examples, probability, run
from common.frames import VIDEO_EXTENSIONS
from dataloader.names import Video, group_of, is_video, listed_names, normal, refuse_same, stem, unique_names

HERE = Path(__file__).resolve().parent


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        prog="python -m UCF_list.make_lists",
        description="Write class index and lists of a folder of videos. Each class is tested on about --test-fraction "
        "of its videos and trained on the others; of these, about --val-fraction become validation videos where a "
        "class has three groups left. Videos of one group stay together: _gNN_ in a name groups videos within their "
        "class; groups of --groups-from and --groups-csv hold across classes (a person, a camera). The same videos "
        "and seed give the same lists.",
        epilog=examples(__doc__),
    )
    add = parser.add_argument
    add("--videos", type=Path, required=True, help="folder with one subfolder of videos per class")
    add("--out", type=Path, required=True, help="folder for the lists")
    add("--split", metavar="NN", default="01", help="number of the split to write")
    add("--test-fraction", type=probability, default=0.3, help="share of each class to test on")
    add("--val-fraction", type=probability, default=0.15, help="share of the others to validate on; 0: no such list")
    add("--seed", type=int, default=0, help="another seed, another choice of groups")
    add = parser.add_mutually_exclusive_group().add_argument
    text = "regex searched in each file's stem; its first group, or the one named 'group', is the video's group"
    add("--groups-from", type=_pattern, metavar="REGEX", help=text)
    text = "CSV file of lines VIDEO,GROUP, such as wave/clip7.mp4,anna"
    add("--groups-csv", type=Path, metavar="FILE", help=text)
    return parser


def _pattern(text: str) -> re.Pattern:
    try:
        return re.compile(normal(text))
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None


def find_videos(folder: Path) -> list[Video]:
    """Videos of the class folders in `folder`, ordered by class and file name; labels count the classes."""
    classes = _sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not classes:
        raise UserError(f"{folder}: no class folders in it; --videos takes a folder with one subfolder per class")
    refuse_same({path.name: normal(path.name) for path in classes})
    videos = []
    for label, path in enumerate(classes):
        files = _sorted(filter(is_video, path.iterdir()))
        if not files:
            raise UserError(f"{path}: no videos in it; add some, or remove the folder")
        for entry in (path, *files):
            if re.search(r"[\r\n\udc80-\udcff]|^\s|\s$", entry.name) or not stem(entry.name):
                raise UserError(f"{str(entry)!r}: a list of lines in UTF-8 cannot hold this name; rename it")
        videos += [Video(stem(file.name), label, path.name, f"{path.name}/{file.name}") for file in files]
    refuse_same({video.path: f"{video.class_name}/{video.name}" for video in videos})
    return videos


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (normal(path.name), path.name))


# ---- groups ----


def find_groups(videos: list[Video], pattern: re.Pattern | None, table: Path | None) -> dict[Video, tuple]:
    """Key of the group of each video: of one person or recording, say, whose videos stay together.

    That is `(group,)`, which holds across classes, from the CSV file `table` or the regular expression `pattern` if
    one is given; else `(class, number)` from `_gNN_` in its name; or `own_group(video)` if it has none.
    """
    if table is not None:
        found = _groups_from_csv(videos, table)
    elif pattern is not None:
        number = "group" if "group" in pattern.groupindex else min(pattern.groups, 1)
        matches = {video: pattern.search(own_group(video)[1]) for video in videos}
        found = {video: (match[number],) for video, match in matches.items() if match and match[number]}
    else:
        found = {v: (normal(v.class_name), group_of(v)) for v in videos if group_of(v) is not None}
    if not found and (table or pattern):
        raise UserError(f"{table or '--groups-from'}: gives no video a group, such as {videos[0].path}")
    return {video: found.get(video) or own_group(video) for video in videos}


def own_group(video: Video) -> tuple[str, str]:
    """Key of the group of a video that belongs to no other: `(class, stem)`."""
    return normal(video.class_name), normal(PurePath(video.path).stem)


def _groups_from_csv(videos: list[Video], path: Path) -> dict[Video, tuple]:
    """Groups from lines `VIDEO,GROUP`; VIDEO may lack its extension, and its class where it is clear."""
    group_by_name: dict[str, tuple] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        for row in filter(None, csv.reader(file)):
            name, group = (*map(str.strip, row), "", "")[:2]
            if PurePath(name).suffix.lower() in VIDEO_EXTENSIONS:
                name = name.rpartition(".")[0]
            if not group or group_by_name.setdefault(name, (normal(group),)) != (normal(group),):
                raise UserError(f"{path}: {','.join(row)[:80]!r}: expected lines VIDEO,GROUP, one group a video")
    unique = unique_names(videos)
    listed = listed_names(list(group_by_name), unique)
    found = {listed[name]: group for name, group in group_by_name.items()}
    return {video: found[same.name] for video, same in zip(videos, unique, strict=True) if same.name in found}


# ---- which groups are held out ----


def split_videos(
    groups: dict[Video, tuple], test_fraction: float, val_fraction: float, seed: int
) -> dict[str, list[Video]]:
    """The videos as `{"train": [...], "val": [...], "test": [...]}`, whole groups in each.

    Every class is tested and trained on, and validated on if three of its groups are left to train on or if that
    brings it nearer to `val_fraction`.
    """
    test = choose_groups(groups, test_fraction, seed)
    for class_name, its_groups in _groups_by_class(groups).items():
        if its_groups <= test or not its_groups & test:
            lacking = "training" if its_groups <= test else "test"
            raise UserError(
                f"class {class_name!r}: no {lacking} video left; each class needs at least 2 groups "
                "(with groups across classes another --seed may do)"
            )
    rest = {video: group for video, group in groups.items() if group not in test}
    giving = {name for name, its_groups in _groups_by_class(rest).items() if len(its_groups) >= 3}
    val = choose_groups(rest, val_fraction, seed, giving) if val_fraction else ()
    parts = {"train": [], "val": [], "test": []}
    for video, group in groups.items():
        parts["test" if group in test else "val" if group in val else "train"].append(video)
    return parts


def choose_groups(groups: dict[Video, tuple], fraction: float, seed: int, giving: set[str] | None = None) -> set[tuple]:
    """Groups to hold out, so that the share of held-out videos of each class comes near to `fraction`.

    In an order given by a hash of seed and group, each group changes sides where that lowers the sum over classes
    of the squared distance to the fraction, until none does. A class without held-out or without other videos
    counts as far off. With `giving`, only these classes need held-out videos, and every class keeps others.
    """
    total = Counter(video.class_name for video in groups)
    held_out: dict[str, int] = defaultdict(int)
    members: dict[tuple, Counter] = defaultdict(Counter)
    for video, group in groups.items():
        members[group][video.class_name] += 1
    order = sorted(members, key=lambda group: hashlib.sha256(repr((seed, *group)).encode()).digest())

    def cost(name: str, videos: int) -> float:
        if videos == total[name] and giving is not None:
            return math.inf
        far_off = videos == total[name] or videos == 0 and (giving is None or name in giving)
        return 10 * far_off + (videos / total[name] - fraction) ** 2

    chosen: set[tuple] = set()
    changed = True
    while changed:
        changed = False
        for group in order:
            sign = -1 if group in chosen else 1
            moved = {name: held_out[name] + sign * videos for name, videos in members[group].items()}
            if sum(cost(name, held_out[name]) - cost(name, videos) for name, videos in moved.items()) > 1e-12:
                chosen ^= {group}
                held_out |= moved
                changed = True
    return chosen


def _groups_by_class(groups: dict[Video, tuple]) -> dict[str, set[tuple]]:
    by_class = defaultdict(set)
    for video, group in groups.items():
        by_class[video.class_name].add(group)
    return by_class


# ---- lists ----


def make_lists(args: argparse.Namespace) -> list[Path]:
    """Write the class index and the lists, print the number of groups; return the paths.

    Without validation videos there is no validation list, and one of an earlier call goes.
    """
    if args.out.resolve() == HERE:
        raise UserError(f"--out {args.out}: holds UCF101's lists; give another folder")
    videos = find_videos(args.videos)
    groups = find_groups(videos, args.groups_from, args.groups_csv)
    parts = split_videos(groups, args.test_fraction, args.val_fraction, args.seed)
    lone = sum(group == own_group(video) for video, group in groups.items())
    print(f"{len(videos)} videos in {len(set(groups.values()))} groups; {lone} videos are groups of their own")
    classes = dict.fromkeys(video.class_name for video in videos)
    lists = {"classInd.txt": [f"{number} {name}" for number, name in enumerate(classes, 1)]}
    for part, listed in parts.items():
        lists[f"{part}list{args.split}.txt"] = [v.path + f" {v.label + 1}" * (part != "test") for v in listed]
    val_list = f"vallist{args.split}.txt"
    if parts["val"]:
        print(f"training with --val-list {val_list} chooses the best epoch on the validation videos")
    else:
        del lists[val_list]
        (args.out / val_list).unlink(missing_ok=True)
    for name, lines in lists.items():
        with atomic_write(args.out / name, "w") as file:
            file.write("\n".join(lines) + "\n")
    return [args.out / name for name in lists]


def main(argv: list[str] | None = None) -> None:
    """Write the lists and print their paths and lengths."""
    args = get_args_parser().parse_args(argv)
    for path in make_lists(args):
        print(f"{path}: {path.read_bytes().count(10)} lines")


if __name__ == "__main__":
    run(main)
