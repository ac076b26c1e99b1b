"""What is left to do between videos and a fused score, as commands to run."""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pose.settings import kept_settings
from training.record import CHECKPOINT

FRAMES, POSE_FLOW, FLOW = "frames", "pose flow", "flow"
SCRIPTS = {
    "spatial": ("spatial_cnn_15.py", FRAMES),
    "motion_pose": ("motion_pose_cnn_15.py", POSE_FLOW),
    "skeleton": ("skeleton_gcn_15.py", POSE_FLOW),
    "flow": ("motion_cnn_15.py", FLOW),
}
DEFAULTS = {"spatial": "data/jpegs_256", "motion_pose": "data/pose_flow", "skeleton": "data/pose_flow"}
DEFAULTS |= {"flow": "data/flow"}
FUSED = ("spatial", "motion_pose")  # what average_fusion.py takes by itself
DOWNLOAD = "https://www.crcv.ucf.edu/data/UCF101.php"
REPAIRED = {"missing", "empty", "gaps", "keypoints", "unmatched"}  # by running the preparing script again


class Lists(NamedTuple):
    """The options that say which videos: a folder, the split's number, a class index and a validation list in it."""

    ucf_list: Path
    split: str
    class_index: str
    val_list: str | None = None

    def options(self) -> list[str]:
        """As on a command line, without what is the scripts' default."""
        given = {"--ucf-list": str(self.ucf_list), "--split": self.split, "--class-index": self.class_index}
        given |= {"--val-list": self.val_list}
        usual = {"--ucf-list": "UCF_list", "--split": "04", "--class-index": "classInd15.txt", "--val-list": None}
        return [word for option, value in given.items() if value != usual[option] for word in (option, value)]

    def files(self) -> list[Path]:
        """The lists of videos."""
        names = (f"trainlist{self.split}.txt", f"testlist{self.split}.txt", self.val_list)
        return [self.ucf_list / name for name in names if name]


class Step(NamedTuple):
    """What is to be done, and the commands that do it."""

    what: str
    commands: list[str]


def next_steps(
    roots: Mapping[str, Path],
    problems: Mapping[str, Sequence[Collection[str]]],
    lists: Lists,
    records: Mapping[str, tuple[Path, str]],
    videos: str | None = None,
    ucf101: bool = False,
    unlisted: bool = False,
    drawn: bool = True,
) -> list[Step]:
    """The steps that are left, in their order.

    `roots` are the folders of frames, pose flow and flow; `problems` tell of each one that is wanted the problems of
    every listed video, as check_data.py names them. `records` are the streams to train, with their folder and their
    state, as `state_of_run` tells it. `videos`: the folder of videos, None if it is not there. `ucf101`: the classes
    are some of UCF101's; `unlisted`: there are frames of other videos, for which poses are not needed; `drawn`: the
    pose flow has images.
    """
    steps = []
    lacking = {what: sum(bool(REPAIRED & set(names)) for names in found) for what, found in problems.items()}
    # Without frames of a video nothing tells whether its poses fit.
    no_frames = [bool((REPAIRED - {"unmatched"}) & set(names)) for names in problems.get(FRAMES, ())]
    for what in (POSE_FLOW, FLOW):
        for names, no_frame in zip(problems.get(what, ()), no_frames, strict=False):
            lacking[what] -= no_frame and REPAIRED & set(names) == {"unmatched"}
    for what, found in problems.items():
        broken = sum("broken" in names for names in found)
        if not lacking[what] and not broken:
            continue
        total, kind = len(found), "optical flow" if what == FLOW else what
        if what == FRAMES and lacking[what] and not videos and ucf101:
            text = f"videos: download UCF101.rar (6.5 GiB) from {DOWNLOAD} and unpack it"
            steps.append(Step(text, ["mkdir -p data && unrar x UCF101.rar data/"]))
            videos = "data/UCF-101"
        text = f"{kind}: missing or incomplete for {lacking[what]} of {total} videos" if lacking[what] else ""
        if broken:
            remove = f"remove the folders of {broken} videos with broken images (--all names them), then"
            text = f"{text}; {remove}" if text else f"{kind}: {remove}"
        if what == FRAMES and not videos:
            text += " (VIDEOS: the folder of videos)"
        steps.append(Step(text, _prepare(what, roots, lists, videos, ucf101, unlisted)))
    training = [
        _train(name, roots[SCRIPTS[name][1]], lists, folder, state)
        for name, (folder, state) in records.items()
        if state != "done"
    ]
    if training:
        steps.append(Step("train, one after the other or on several machines", training))
    if len(records) > 1:
        shown = {what: roots[what] for what in problems if drawn or what != POSE_FLOW}
        steps.append(Step("fuse the scores", [_fuse(shown, lists, records)]))
    return steps


def _prepare(
    what: str, roots: Mapping[str, Path], lists: Lists, videos: str | None, ucf101: bool, unlisted: bool
) -> list[str]:
    frames, root = str(roots[FRAMES]), str(roots[what])
    if what == FRAMES:
        some_classes = ucf101 and lists.class_index != "classInd.txt"
        if some_classes and Path(videos or "").name == "UCF-101":
            names = f"$(cut -d' ' -f2 {shlex.quote(str(lists.ucf_list / lists.class_index))})"
            extract = f'python extract_frames.py "{videos}/$class" {shlex.quote(root)}'
            return [f"for class in {names}; do {extract}; done"]
        return [shlex.join(["python", "extract_frames.py", videos or "VIDEOS", root])]
    if what == FLOW:
        return [shlex.join(["python", "extract_flow.py", frames, root])]
    command = ["python", "process_pose.py", "--frames", frames, "--out", root]
    if (kept_settings(root) or {}).get("model") == "onnx":
        command += ["--pose-weights", "FILE"]
    only = [["--videos", str(file)] for file in lists.files()] if unlisted else [[]]
    return [shlex.join(command + options) for options in only]


def _train(name: str, root: Path, lists: Lists, record: Path, state: str) -> str:
    command = ["python", SCRIPTS[name][0], *lists.options()]
    command += ["--data", str(root)] if str(root) != DEFAULTS[name] else []
    command += ["--record", str(record)] if record != Path("record", name) else []
    command += ["--resume", str(record / CHECKPOINT)] if state == "stopped" else []
    command += ["--overwrite"] if state == "few" else []
    return shlex.join(command)


def _fuse(roots: Mapping[str, Path], lists: Lists, records: Mapping[str, tuple[Path, str]]) -> str:
    scores = {name: folder / f"{name}_video_preds.pickle" for name, (folder, _) in records.items()}
    usual = {name: Path("record", name, f"{name}_video_preds.pickle") for name in FUSED}
    command = ["python", "average_fusion.py", *map(str, scores.values() if scores != usual else ())]
    command += ["--weights", "auto"] if lists.val_list else []
    for option, what in (("--frames", FRAMES), ("--pose-flow", POSE_FLOW)):
        command += [option, str(roots[what])] if what in roots else []
    return shlex.join([*command, *lists.options()])


def state_of_run(record: Path, stream: str, lists: Lists, videos: int) -> str:
    """What `record` holds: nothing (`missing`), or a run of the stream that is `done`, `stopped`, `few` or `other`.

    `few` is a run that skipped more than a tenth of the `videos` in the lists, `other` one on other lists; its summary
    tells.
    """
    try:
        summary = json.loads((record / "summary.json").read_text(encoding="utf-8"))
        options, skipped = summary["arguments"], len(summary["skipped"])
        trained_on = Lists(Path(options["ucf_list"]), *(options[name] for name in Lists._fields[1:]))
    except FileNotFoundError:
        return "stopped" if (record / CHECKPOINT).exists() else "missing"
    except (ValueError, KeyError, TypeError):
        return "other"
    same = trained_on._replace(ucf_list=trained_on.ucf_list.resolve())
    if same != lists._replace(ucf_list=lists.ucf_list.resolve()):
        return "other"
    if skipped > videos / 10:
        return "few"
    return "done" if (record / f"{stream}_video_preds.pickle").exists() else "stopped"


def find_run(record: Path, stream: str, lists: Lists, videos: int) -> tuple[Path, str]:
    """The folder below `record` for a stream's run on these lists of so many videos, and its state.

    It is `record/STREAM`, or, if that holds a run on other lists, `record/splitNN/STREAM`, as average_fusion.py has it.
    """
    folders = [record / stream, record / f"split{lists.split}" / stream, record / lists.ucf_list.name / stream]
    states = [(folder, state_of_run(folder, stream, lists, videos)) for folder in folders]
    return next((found for found in states if found[1] != "other"), states[-1])
