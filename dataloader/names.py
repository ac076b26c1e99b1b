"""What a video is called, and where its folder lies: for lists, frames, poses, own videos and scores alike."""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from common.cli import UserError
from common.frames import VIDEO_EXTENSIONS


@dataclass(frozen=True, slots=True)
class Video:
    """One line of a split list."""

    name: str  # key in score pickles: the stem without `v_`, or `Class/stem` if several classes have that stem
    label: int  # 0-based position of the class in the class index
    class_name: str
    path: str  # of the line: `Class/v_Class_g01_c01.avi`


def normal(name: str) -> str:
    """One form (NFC) for names that look the same: some systems store accents as separate letters."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stem(file_name: str) -> str:
    """Name of a video: its file name without folder, extension of a video, and leading `v_`."""
    return normal(PurePosixPath(without_extension(file_name)).name.removeprefix("v_"))


def without_extension(file_name: str) -> str:
    """A path or name without the extension of a video."""
    extension = PurePosixPath(file_name).suffix
    return file_name.removesuffix(extension) if extension.lower() in VIDEO_EXTENSIONS else file_name


def without_prefix(name: str) -> str:
    """`v_X` -> `X`, `Class/v_X` -> `Class/X`."""
    parent, slash, base = name.rpartition("/")
    return parent + slash + (base.removeprefix("v_") or base)


def pose_name(folder: str) -> str:
    """Name of the pose folder of a folder of frames: `v_X` -> `X`, `Class/v_X` -> `Class/X`."""
    return normal(without_prefix(folder))


def group_of(video: Video) -> int | None:
    """Number of the group that a video's name carries (`_g07_`), None if it carries none."""
    match = re.search(r"_g(\d+)_", video.name)
    return int(match[1]) if match else None


def unique_names(videos: Sequence[Video]) -> list[Video]:
    """The same videos, with `Class/stem` for a name where several classes have a video of that stem."""
    class_of: dict[str, str] = {}
    shared = {v.name for v in videos if class_of.setdefault(v.name, v.class_name) != v.class_name}
    return [replace(v, name=f"{v.class_name}/{v.name}".lstrip("/")) if v.name in shared else v for v in videos]


def listed_names(names: Iterable[str], videos: Sequence[Video]) -> dict[str, str | None]:
    """For each of `names` the name of the listed video that it means; None if there is none, or several.

    Case may differ (as in UCF101's HandStandPushups), `v_` and the class folder may precede a name, and an extension
    follow it.
    """
    exact = {normal(video.name): video.name for video in videos}
    loose: dict[str, set[str]] = {}
    for video in videos:
        for alias in (*folder_names(video), without_prefix(video.name)):
            loose.setdefault(normal(alias).casefold(), set()).add(video.name)

    def find(name: str) -> str | None:
        candidates = loose.get(name.casefold(), ())
        return exact.get(name) or (min(candidates) if len(candidates) == 1 else None)

    return {name: find(normal(name)) or find(normal(without_extension(name))) for name in names}


def refuse_same(names: Mapping[str | Path, str]) -> None:
    """Refuse two paths of the same name, given as `name`, or `folder/name` of what is in a folder."""
    seen: dict[str, str | Path] = {}
    for path, name in names.items():
        if name in seen:
            name_only = name.rpartition("/")[2]
            raise UserError(f"{seen[name]} and {path}: both would be called {name_only!r}; rename or remove one")
        seen[name] = path


def folder_names(video: Video) -> Iterator[str]:
    """Names, best first, under which the folder of a video may lie.

    With and without `v_`, below the class folder, in the class's spelling (`HandstandPushups/v_HandStandPushups_…`),
    accents as one letter or as two (NFD, as some systems store them).
    """
    base = video.name.rsplit("/", 1)[-1]
    bases = [base]
    if base.lower().startswith(video.class_name.lower()):
        bases.append(video.class_name + base[len(video.class_name) :])
    for below in ((video.class_name,),) if "/" in video.name else ((), (video.class_name,)):
        for name in dict.fromkeys(bases):
            for parts in ((*below, f"v_{name}"), (*below, name)):
                forms = ([unicodedata.normalize(form, part) for form in ("NFC", "NFD")] for part in parts)
                yield from dict.fromkeys(map("/".join, itertools.product(*forms)))


def is_video(path: Path) -> bool:
    """Whether a path is a video file: by its extension, and not hidden."""
    return path.suffix.lower() in VIDEO_EXTENSIONS and not path.name.startswith(".") and path.is_file()


def find_videos(root: Path) -> dict[str, Path]:
    """Videos in `root`, in its subfolders, or `root` itself, by the name of their folder of frames.

    That is the stem, or `CLASS/STEM` if several classes have a video of that stem. Refuses two videos of one folder.
    """
    if root.is_file():
        return {root.stem: root}
    if not root.is_dir():
        raise UserError(f"{root}: no such file or folder")
    paths = [path for path in sorted([*root.glob("*"), *root.glob("[!.]*/*")]) if is_video(path)]
    if not paths:
        known = " ".join(sorted(VIDEO_EXTENSIONS))
        raise UserError(f"{root}: no videos in it or in its subfolders; known extensions are {known}")
    refuse_same({path: f"{path.parent}/{stem(path.name)}" for path in paths})
    folders_with = Counter(stem(path.name) for path in paths)
    videos = {}
    for path in paths:
        nested = path.parent != root and folders_with[stem(path.name)] > 1
        videos[f"{path.parent.name}/{path.stem}" if nested else path.stem] = path
    for name in videos:
        parent, slash, _ = name.partition("/")
        if slash and parent in videos:
            raise UserError(f"{videos[parent]}: called like the class of {videos[name]}; rename one")
    return videos


def first_names(names: Sequence[str]) -> str:
    """The first three of `names`, and … for the rest."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
