"""A folder of class folders of videos: what is in it, which videos belong together, and how to split them."""

import csv
import hashlib
import math
import re
from collections import Counter, defaultdict
from pathlib import Path, PurePath

from common.cli import UserError
from dataloader.names import Video, group_of, is_video, listed_names, normal, refuse_same, stem, unique_names


def find_videos(folder: Path) -> list[Video]:
    """Videos of the class folders in `folder`, ordered by class and file name; labels count the classes.

    Raises `UserError` if there is no class folder, one without videos, or a name that lists cannot hold.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    classes = sorted((path for path in entries if path.is_dir() and path.name[0] != "."), key=_order)
    if not classes:
        problem = "no class folders in it" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {problem}; --videos takes a folder with one subfolder per class")
    refuse_same({path.name: normal(path.name) for path in classes})
    videos = []
    for label, path in enumerate(classes):
        files = sorted(filter(is_video, path.iterdir()), key=_order)
        if not files:
            raise UserError(f"class {path.name!r}: no videos in {path}; add some, or remove the folder")
        for entry in (path, *files):
            if re.search(r"[\r\n\udc80-\udcff]|^\s|\s$", entry.name) or not stem(entry.name):
                reasons = "line break, space at an end, not UTF-8, or nothing but v_"
                raise UserError(f"{str(entry)!r}: a list cannot hold this name ({reasons}); rename it")
        videos += [Video(stem(file.name), label, path.name, f"{path.name}/{file.name}") for file in files]
    refuse_same({video.path: f"{video.class_name}/{video.name}" for video in videos})
    return videos


def _order(path: Path) -> tuple[str, str]:
    return normal(path.name), path.name


def find_groups(videos: list[Video], pattern: str | None = None, table: Path | None = None) -> dict[Video, tuple]:
    """Key of the group of each video: of one person or recording, say, whose videos stay together.

    That is `(group,)`, which holds across classes, from the CSV file `table` or the regular expression `pattern` if
    one is given; else `(class, number)` from `_gNN_` in its name; or `own_group(video)` if it has none. Raises
    `UserError` if `pattern` or `table` cannot be read or give no video a group.
    """
    if table is not None:
        found = _groups_from_csv(videos, table)
    elif pattern is not None:
        found = _groups_from_pattern(videos, pattern)
    else:
        found = {v: (normal(v.class_name), group_of(v)) for v in videos if group_of(v) is not None}
    return {video: found.get(video) or own_group(video) for video in videos}


def own_group(video: Video) -> tuple[str, str]:
    """Key of the group of a video that belongs to no other: `(class, stem)`."""
    return normal(video.class_name), normal(PurePath(video.path).stem)


def _groups_from_pattern(videos: list[Video], text: str) -> dict[Video, tuple]:
    try:
        pattern = re.compile(normal(text))
    except re.error as error:
        raise UserError(f"--groups-from {text!r}: not a regular expression: {error}") from None
    if not pattern.groups:
        raise UserError(f"--groups-from {text!r}: captures nothing; put (…) around what tells the groups")
    number = "group" if "group" in pattern.groupindex else 1
    matches = {video: pattern.search(own_group(video)[1]) for video in videos}
    found = {video: (match[number],) for video, match in matches.items() if match and match[number]}
    if not found:
        raise UserError(f"--groups-from {text!r}: finds no group in any name, such as {videos[0].path}")
    return found


def _groups_from_csv(videos: list[Video], path: Path) -> dict[Video, tuple]:
    """Groups from lines `VIDEO,GROUP`; VIDEO may lack its extension, and its class where it is clear."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row[:2]] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--groups-csv {path}: cannot be read as a CSV file ({error})") from None
    for row in rows:
        if len(row) < 2 or "" in row:
            raise UserError(f"--groups-csv {path}: expected lines VIDEO,GROUP, got {','.join(row)[:80]!r}")
    unique = unique_names(videos)
    video_of: dict[str | None, Video] = {video.name: original for video, original in zip(unique, videos, strict=True)}
    listed = listed_names([name for name, _ in rows], unique)
    found: dict[Video, tuple] = {}
    for name, group in rows:
        video = video_of.get(listed[name])
        if video and found.setdefault(video, (normal(group),)) != (normal(group),):
            raise UserError(f"--groups-csv {path}: {video.path} is in two groups; give it one")
    if not found:
        raise UserError(f"--groups-csv {path}: names none of the videos; expected lines such as {videos[0].path},anna")
    return found


def split_videos(groups: dict[Video, tuple], test_fraction: float, val_fraction: float, seed: int) -> dict:
    """The videos as `{"train": [...], "val": [...], "test": [...]}`, whole groups in each.

    Every class is tested and trained on (else raises `UserError`), and validated on if three of its groups are left
    to train on or if that brings it nearer to `val_fraction`.
    """
    test = choose_groups(groups, test_fraction, seed)
    for class_name, its_groups in _groups_by_class(groups).items():
        if its_groups <= test or not its_groups & test:
            why = "no choice of groups was found that gives each class both; try another --seed"
            if len(its_groups) == 1:
                why = f"its {sum(video.class_name == class_name for video in groups)} video(s) form one group"
            raise UserError(
                f"class {class_name!r}: no {'training' if its_groups <= test else 'test'} video left, for {why}; "
                "each class needs at least 2 groups, one to train and one to test on"
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
