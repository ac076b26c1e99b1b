"""Class indices and split lists, in the form that UCF101 ships them."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from common.cli import UserError
from dataloader.names import Video, normal, split_line, unique_names


@dataclass(frozen=True)
class Split:
    """Class names in the order of their labels, training, test and, if asked for, validation videos."""

    classes: list[str]
    train: list[Video]
    test: list[Video]
    val: list[Video] = field(default_factory=list)


def read_class_index(path: str | os.PathLike) -> list[str]:
    """Class names of a class index (lines `NUMBER NAME`), ordered by number; raises `UserError` for a malformed one."""
    numbered = {}
    for number, line in _read_lines(path):
        match = re.fullmatch(r"(\d{1,9})\s+(\S.*)", line)
        if not match:
            raise UserError(f"{path}, line {number}: expected 'NUMBER CLASS', got {line[:80]!r}")
        if int(match[1]) in numbered:
            raise UserError(f"{path}, line {number}: class number {match[1]} comes twice")
        numbered[int(match[1])] = match[2]
    names = [numbered[key] for key in sorted(numbered)]
    _refuse_twice([normal(name) for name in names], f"{path}: class", "give each class one line")
    if not names:
        raise UserError(f"{path}: no classes in it; expected lines 'NUMBER CLASS'")
    return names


def read_list(path: str | os.PathLike, classes: list[str]) -> list[Video]:
    """Videos of one split list: lines `CLASS/FILE`, with or without a class number behind.

    The label is that of the class folder in `classes`; the number, which counts UCF101's 101 classes whatever the
    class index is, is not needed. Raises `UserError` for a line that names no class or an unknown one.
    """
    labels = {normal(name): label for label, name in enumerate(classes)}
    videos = []
    for number, line in _read_lines(path):
        class_name, name, path_of_video = split_line(line)
        if not class_name or not name:
            raise UserError(f"{path}, line {number}: expected 'CLASS/VIDEO', got {line[:80]!r}")
        if class_name not in labels:
            raise UserError(
                f"{path}, line {number}: class {class_name!r} is not in the class index; "
                "choose the --class-index that belongs to this list"
            )
        videos.append(Video(name, labels[class_name], classes[labels[class_name]], path_of_video))
    if not videos:
        raise UserError(f"{path}: no videos in it; expected lines 'CLASS/VIDEO'")
    return videos


def read_split(ucf_list: str | os.PathLike, split: str, class_index: str, val_list: str | None = None) -> Split:
    """Read `<class_index>`, `trainlist<split>.txt`, `testlist<split>.txt` and `val_list` of the folder `ucf_list`.

    Raises `UserError` if a file is missing or malformed, or if a video is in two lists or twice in one.
    """
    check_lists(ucf_list, split, class_index, val_list)
    folder = Path(ucf_list)
    classes = read_class_index(folder / class_index)
    files = [folder / name for name in (*_lists_of(split), val_list) if name]
    parts = [read_list(file, classes) for file in files]
    videos = unique_names([video for part in parts for video in part])
    _refuse_twice([video.name for video in videos], f"{' and '.join(map(str, files))}: video", "list it once")
    remaining = iter(videos)
    return Split(classes, *(list(islice(remaining, len(part))) for part in parts))


def check_lists(
    ucf_list: str | os.PathLike, split: str | None, class_index: str | None, val_list: str | None = None
) -> None:
    """Raise `UserError` if a file that `read_split` would read is not there; what is None is not looked for."""
    folder = Path(ucf_list)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of split lists; see --ucf-list")
    files = {class_index: "--class-index", val_list: "--val-list"} | dict.fromkeys(_lists_of(split), "--split")
    for name, option in files.items():
        if name and not (folder / name).exists():
            there = sorted(path.name for path in folder.glob("classInd*.txt")) if option == "--class-index" else []
            hint = f"; that folder has {' and '.join(there)}" if there else ""
            raise UserError(f"{folder / name}: no such file{hint}; see --ucf-list and {option}")


def _lists_of(split: str | None) -> tuple[str, ...]:
    return (f"trainlist{split}.txt", f"testlist{split}.txt") if split else ()


def _read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Stripped, non-empty lines of a UTF-8 text file with their 1-based numbers."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; see --ucf-list, --split and --class-index") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    yield from ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _refuse_twice(names: list[str], what: str, remedy: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{what} {twice[0]!r} comes twice ({len(twice)} such); {remedy}")
