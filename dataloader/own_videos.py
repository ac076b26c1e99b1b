"""A folder of class folders of videos: what is in it, and which groups of videos to test on."""

import hashlib
import re
from collections import Counter
from pathlib import Path

from common.cli import UserError
from dataloader.names import is_video, normal, refuse_same, stem


def find_videos(folder: Path) -> dict[str, list[str]]:
    """Video file names of each class folder in `folder`, both sorted; hidden and other files are passed over.

    Raises `UserError` if there is no class folder, one without videos, or a name that lists cannot hold.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --videos takes a folder with one subfolder per class")
    found = {}
    for class_folder in sorted((path for path in folder.iterdir() if path.is_dir()), key=_order):
        name = class_folder.name
        if name.startswith("."):
            continue
        found[name] = [path.name for path in sorted(filter(is_video, class_folder.iterdir()), key=_order)]
        if not found[name]:
            raise UserError(f"class {name!r}: no videos in {class_folder}; add some, or remove the folder")
        for path in [class_folder, *(class_folder / file for file in found[name])]:
            _check_name(path)
        refuse_same({f"{name}/{file}": stem(file) for file in found[name]})
    if not found:
        raise UserError(f"{folder}: no class folders in it; --videos takes a folder with one subfolder per class")
    refuse_same({name: normal(name) for name in found})
    return found


def group_of(class_name: str, file_name: str, groups_from: str | None) -> tuple:
    """Key of the group of a video: from `groups_from` across classes, from `_gNN_` or the name within its class.

    Raises `UserError` if `groups_from` is no regular expression with a group, or finds nothing in the name.
    """
    file_stem = normal(Path(file_name).stem)
    if groups_from is None:
        match = re.search(r"_g(\d+)_", file_stem)
        return (normal(class_name), int(match[1])) if match else (normal(class_name), file_stem)
    try:
        pattern = re.compile(normal(groups_from))
    except re.error as error:
        raise UserError(f"--groups-from {groups_from!r}: not a regular expression: {error}") from None
    if not pattern.groups:
        raise UserError(f"--groups-from {groups_from!r}: captures nothing; put (…) around what tells the groups")
    match = pattern.search(file_stem)
    group = match and match["group" if "group" in pattern.groupindex else 1]
    if not group:
        raise UserError(f"--groups-from {groups_from!r}: finds no group in {class_name}/{file_name}")
    return (group,)


def choose_test_groups(groups: dict[tuple[str, str], tuple], test_fraction: float, seed: int) -> set[tuple]:
    """Groups to test on, so that the share of test videos of each class comes near to `test_fraction`.

    `groups`: group of each video `(class, file)`. In an order given by a hash of seed and group, each group
    changes sides where that lowers the sum over classes of the squared distance to the fraction, until none
    does; a class without training or without test videos counts as far off.
    """
    total = Counter(class_name for class_name, _ in groups)
    members: dict[tuple, Counter] = {}
    for (class_name, _), group in groups.items():
        members.setdefault(group, Counter())[class_name] += 1
    in_test = Counter()
    order = sorted(members, key=lambda group: hashlib.sha256(repr((seed, *group)).encode()).digest())

    def cost(class_name: str, videos: int) -> float:
        one_sided = videos in (0, total[class_name])
        return 10 * one_sided + (videos / total[class_name] - test_fraction) ** 2

    chosen: set[tuple] = set()
    changed = True
    while changed:
        changed = False
        for group in order:
            sign = -1 if group in chosen else 1
            gain = sum(
                cost(name, in_test[name]) - cost(name, in_test[name] + sign * videos)
                for name, videos in members[group].items()
            )
            if gain > 1e-12:
                chosen ^= {group}
                for name, videos in members[group].items():
                    in_test[name] += sign * videos
                changed = True
    return chosen


def _order(path: Path) -> tuple[str, str]:
    return normal(path.name), path.name


def _check_name(path: Path) -> None:
    name = path.name
    if re.search(r"[\r\n]", name) or name != name.strip() or not stem(name):
        raise UserError(
            f"{str(path)!r}: a list cannot hold this name (line break, space at an end, or nothing but v_); rename it"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{str(path)!r}: this name is not UTF-8; rename it") from None
