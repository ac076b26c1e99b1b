"""Class indices and split lists, in the form that UCF101, TSN and HMDB51 ship them."""

import os
import re
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from posixpath import basename, dirname, normpath
from typing import NamedTuple

from common.cli import UserError
from common.frames import VIDEO_EXTENSIONS
from dataloader.names import Video, normal, stem, unique_names

NUMBERED = re.compile(rf"(.+({'|'.join(map(re.escape, VIDEO_EXTENSIONS))}))(\s+\d+)*", re.IGNORECASE)
FORM = "CLASS/VIDEO, CLASS/VIDEO LABEL or CLASS/VIDEO FRAMES LABEL"


@dataclass(frozen=True)
class Split:
    """Class names in the order of their labels, training, test and, if asked for, validation videos."""

    classes: list[str]
    train: list[Video]
    test: list[Video]
    val: list[Video] = field(default_factory=list)


class Entry(NamedTuple):
    """A video of a list: `FILE, line NUMBER`, its class ("" if the line has none), and its path without numbers."""

    where: str
    class_name: str
    path: str


def read_class_index(path: str | os.PathLike) -> list[str]:
    """Class names of a class index (lines `NUMBER NAME`), ordered by number."""
    numbered: dict[int, str] = {}
    for where, line in _read_lines(path, "NUMBER CLASS"):
        match = re.fullmatch(r"(\d{1,9})\s+(\S.*)", line)
        if not match:
            raise UserError(f"{where}: expected NUMBER CLASS, got {line[:80]!r}")
        if int(match[1]) in numbered or normal(match[2]) in map(normal, numbered.values()):
            raise UserError(f"{where}: {line[:80]!r} comes twice; give each class one line and number")
        numbered[int(match[1])] = match[2]
    return [numbered[key] for key in sorted(numbered)]


def read_entries(path: str | os.PathLike) -> list[Entry]:
    """The lines of a list, `CLASS/VIDEO`, with or without an extension, a label, or a number of frames and a label."""
    lines = _read_lines(path, FORM)
    paths = _without_numbers([line for _, line in lines])
    return [Entry(where, normal(basename(dirname(v))), v) for (where, _), v in zip(lines, paths, strict=True)]


def _without_numbers(lines: list[str]) -> list[str]:
    """Paths of videos. Numbers behind an extension are no part of a name.

    If no line has an extension, they are none if every line has them and the last one tells the classes apart.
    """
    matches = [NUMBERED.fullmatch(line) for line in lines]
    if any(matches):
        return [normpath(match[1] if match else line) for match, line in zip(matches, lines, strict=True)]
    for columns in (2, 1):
        rows = [tuple(line.rsplit(maxsplit=columns)) for line in lines]
        numbered = all(len(row) > columns and all(map(str.isdecimal, row[1:])) for row in rows)
        labels = {(dirname(row[0]), row[-1]) for row in rows}
        different = len({row[0] for row in rows}) == len(set(rows))
        if numbered and different and len(labels) == len({folder for folder, _ in labels}):
            return [normpath(row[0]) for row in rows]
    return list(map(normpath, lines))


def read_split(ucf_list: str | os.PathLike, split: str, class_index: str, val_list: str | None = None) -> Split:
    """Read `<class_index>`, `trainlist<split>.txt`, `testlist<split>.txt` and `val_list` of the folder `ucf_list`.

    A folder of HMDB51's lists has `<class>_test_split<split>.txt` in their place, and needs no class index. The label
    of a video is that of its class folder; a label in the list, which counts other classes or from 0, is not needed.
    """
    folder = Path(ucf_list)
    index, parts = folder / class_index, _read_hmdb51(folder, split)
    named = not parts or index.exists()
    classes = read_class_index(index) if named else sorted({entry.class_name for part in parts for entry in part})
    parts = parts or [read_entries(folder / f"{part}list{split}.txt") for part in ("train", "test")]
    parts += [read_entries(folder / val_list)] if val_list else []
    entries = [entry for part in parts for entry in part]
    labels = {normal(name): label for label, name in enumerate(classes)}
    videos = []
    for where, class_name, path in entries:
        label = labels.get(normal(class_name))
        if label is None or not stem(path):
            raise UserError(
                f"{where}: {path[:80]!r} is no video of a class in the class index; choose the --class-index that "
                f"belongs to this list, whose lines are {FORM}"
            )
        videos.append(Video(stem(path), label, classes[label], path))
    videos, first = unique_names(videos), {}
    trained = {video.label for video in videos[: len(parts[0])]}
    for video, entry in zip(videos, entries, strict=True):
        if first.setdefault(video.name, entry.where) != entry.where:
            raise UserError(f"{entry.where}: video {video.name!r} comes twice, see {first[video.name]}; list it once")
        if video.label not in trained:
            raise UserError(
                f"{entry.where}: class {video.class_name!r} has no video in the training list; add some there, or "
                "take the class out of the lists and the class index"
            )
    remaining = iter(videos)
    return Split(classes, *(list(islice(remaining, len(part))) for part in parts))


def _read_hmdb51(folder: Path, split: str) -> list[list[Entry]]:
    """Training and test videos of HMDB51's lists, 1 and 2 behind their names, if there are any; 0 is not used."""
    end, form = f"_test_split{split.lstrip('0')}.txt", "VIDEO 1 (training), VIDEO 2 (test) or VIDEO 0 (neither)"
    parts: dict[str, list[Entry]] = {"1": [], "2": []}
    for path in sorted(folder.glob(f"*{end}")):
        class_name = path.name.removesuffix(end)
        for where, line in _read_lines(path, form):
            match = re.fullmatch(r"(\S.*)\s+([012])", line)
            if not match:
                raise UserError(f"{where}: expected {form}, got {line[:80]!r}")
            if match[2] in parts:
                parts[match[2]].append(Entry(where, class_name, f"{class_name}/{match[1]}"))
    return list(parts.values()) if any(parts.values()) else []


def _read_lines(path: str | os.PathLike, form: str) -> list[tuple[str, str]]:
    """Stripped, non-empty lines, of which there must be some, of a UTF-8 text file, each after `FILE, line NUMBER`."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        there = ", ".join(sorted(file.name for file in Path(path).parent.glob("*.txt"))[:15]) or "no lists"
        options = "--ucf-list, --split, --class-index and --val-list"
        raise UserError(f"{path}: {error.strerror}; that folder has {there}; see {options}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as UTF-16 has them
        raise UserError(f"{path}: is no UTF-8 text (UTF-16, or no text at all?); save it as UTF-8")
    lines = [
        (f"{path}, line {number}", line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()
    ]
    if not lines:
        raise UserError(f"{path}: is empty; expected lines {form}")
    return lines
