"""What check_data.py tells to do next."""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.helpers import call_main, make_tiny
from training.next_steps import FLOW, FRAMES, POSE_FLOW, Lists, find_run, next_steps, state_of_run

ROOTS = {FRAMES: Path("data/jpegs_256"), POSE_FLOW: Path("data/pose_flow"), FLOW: Path("data/flow")}
USUAL = Lists(Path("UCF_list"), "04", "classInd15.txt")
RUNS = {name: (Path("record", name), "missing") for name in ("spatial", "motion_pose")}
DONE = {name: (folder, "done") for name, (folder, _) in RUNS.items()}
FUSION = "python average_fusion.py --frames data/jpegs_256 --pose-flow data/pose_flow"


def commands(*arguments, **options) -> list[str]:
    return [command for step in next_steps(*arguments, **options) for command in step.commands]


def found(frames=(), poses=()):
    """Problems of 10 videos, the first ones of which have these."""
    return {what: [set(names)] * 3 + [set()] * 7 for what, names in ((FRAMES, frames), (POSE_FLOW, poses))}


def test_from_nothing_to_a_fused_score():
    nothing = {what: [{"missing"}] * 10 for what in (FRAMES, POSE_FLOW)}
    assert commands(ROOTS, nothing, USUAL, RUNS, ucf101=True) == [
        "mkdir -p data && unrar x UCF101.rar data/",
        "for class in $(cut -d' ' -f2 UCF_list/classInd15.txt); do "
        'python extract_frames.py "data/UCF-101/$class" data/jpegs_256; done',
        "python process_pose.py --frames data/jpegs_256 --out data/pose_flow",
        "python spatial_cnn_15.py",
        "python motion_pose_cnn_15.py",
        FUSION,
    ]
    own = commands(ROOTS, nothing, USUAL, RUNS, "my videos")
    assert own[0] == "python extract_frames.py 'my videos' data/jpegs_256" and len(own) == 5
    assert commands(ROOTS, nothing, USUAL, RUNS)[0] == "python extract_frames.py VIDEOS data/jpegs_256"


def test_only_what_is_lacking():
    assert commands(ROOTS, found(), USUAL, DONE) == [FUSION]
    assert commands(ROOTS, found(), USUAL, RUNS)[0] == "python spatial_cnn_15.py"
    one = DONE | {"motion_pose": (Path("record/motion_pose"), "stopped")}
    assert commands(ROOTS, found(), USUAL, one) == [
        "python motion_pose_cnn_15.py --resume record/motion_pose/checkpoint.pth.tar",
        FUSION,
    ]
    (poses, fusion) = next_steps(ROOTS, found(poses=["keypoints"]), USUAL, DONE)
    assert poses.what == "pose flow: missing or incomplete for 3 of 10 videos" and fusion.commands == [FUSION]
    # The poses of videos without frames are not at fault; short videos stay short.
    (frames, _) = next_steps(ROOTS, found(["missing"], ["unmatched"]), USUAL, DONE, "videos")
    assert frames.what.startswith("frames: ") and frames.commands == ["python extract_frames.py videos data/jpegs_256"]
    assert commands(ROOTS, found(["short"], ["short"]), USUAL, DONE) == [FUSION]
    # No script mends broken images in folders that are complete.
    (broken, _) = next_steps(ROOTS, found(poses=["broken"]), USUAL, DONE)
    assert broken.what == "pose flow: remove the folders of 3 videos with broken images (--all names them), then"


def test_options_other_than_the_defaults_are_in_every_command():
    lists = Lists(Path("my lists"), "01", "classInd.txt", "vallist01.txt")
    roots = {FRAMES: Path("f"), POSE_FLOW: Path("p"), FLOW: Path("o")}
    runs = {name: (Path("runs", name), "missing") for name in ("spatial", "motion_pose", "skeleton", "flow")}
    found = {FRAMES: [set()], POSE_FLOW: [{"missing"}], FLOW: [{"gaps"}]}
    split = "--ucf-list 'my lists' --split 01 --class-index classInd.txt --val-list vallist01.txt"
    assert commands(roots, found, lists, runs, unlisted=True, drawn=False) == [
        "python process_pose.py --frames f --out p --videos 'my lists/trainlist01.txt'",
        "python process_pose.py --frames f --out p --videos 'my lists/testlist01.txt'",
        "python process_pose.py --frames f --out p --videos 'my lists/vallist01.txt'",
        "python extract_flow.py f o",
        f"python spatial_cnn_15.py {split} --data f --record runs/spatial",
        f"python motion_pose_cnn_15.py {split} --data p --record runs/motion_pose",
        f"python skeleton_gcn_15.py {split} --data p --record runs/skeleton",
        f"python motion_cnn_15.py {split} --data o --record runs/flow",
        "python average_fusion.py "
        + " ".join(f"runs/{name}/{name}_video_preds.pickle" for name in runs)
        + f" --weights auto --frames f {split}",
    ]


def write_run(folder: Path, stream: str, lists: Lists, skipped: int = 0) -> None:
    folder.mkdir(parents=True)
    (folder / f"{stream}_video_preds.pickle").touch()
    summary = {"arguments": lists._asdict(), "skipped": dict.fromkeys(map(str, range(skipped)))}
    (folder / "summary.json").write_text(json.dumps(summary, default=str))


def test_a_run_without_many_of_the_videos_is_done_again(tmp_path):
    write_run(tmp_path / "few", "spatial", USUAL, skipped=200)
    write_run(tmp_path / "most", "spatial", USUAL, skipped=190)
    assert state_of_run(tmp_path / "most", "spatial", USUAL, 1928) == "done"
    runs = DONE | {"spatial": (tmp_path / "few", state_of_run(tmp_path / "few", "spatial", USUAL, 1928))}
    assert commands(ROOTS, found(), USUAL, runs)[0] == f"python spatial_cnn_15.py --record {tmp_path}/few --overwrite"


def test_poses_of_an_onnx_network_need_its_file(tmp_path):
    (tmp_path / "pose_settings.json").write_text('{"model": "onnx"}')
    command = commands(ROOTS | {POSE_FLOW: tmp_path}, found(poses=["missing"]), USUAL, DONE)[0]
    assert command == f"python process_pose.py --frames data/jpegs_256 --out {tmp_path} --pose-weights FILE"


def test_runs_are_those_of_these_lists(tmp_path):
    assert find_run(tmp_path, "spatial", USUAL, 1928) == (tmp_path / "spatial", "missing")
    write_run(tmp_path / "spatial", "spatial", USUAL)
    assert find_run(tmp_path, "spatial", USUAL, 1928) == (tmp_path / "spatial", "done")
    other = USUAL._replace(split="01")
    assert find_run(tmp_path, "spatial", other, 1928) == (tmp_path / "split01" / "spatial", "missing")
    (tmp_path / "split01" / "spatial").mkdir(parents=True)
    (tmp_path / "split01" / "spatial" / "checkpoint.pth.tar").touch()
    assert find_run(tmp_path, "spatial", other, 1928) == (tmp_path / "split01" / "spatial", "stopped")


@pytest.mark.parametrize("state", ["nothing", "some frames", "no poses", "all"])
def test_check_data_ends_with_commands_that_the_scripts_take(state, tmp_path):
    data = make_tiny(tmp_path)
    shutil.rmtree(data / "pose_flow")
    (data / "skeletons").rename(data / "pose_flow")
    if state == "nothing":
        shutil.rmtree(data / "frames")
    if state == "some frames":
        shutil.rmtree(next(path for path in (data / "frames").iterdir() if path.is_dir()))
    if state != "all":
        shutil.rmtree(data / "pose_flow")
    write_run(data / "record" / "spatial", "spatial", USUAL._replace(ucf_list=data / "lists"))
    places = ("--frames", data / "frames", "--pose-flow", data / "pose_flow", "--flow", data / "flow")
    places += ("--ucf-list", data / "lists", "--record", data / "record", "--from-keypoints", "--workers", 0)
    finished = call_main("check_data", *places)
    assert finished.returncode == (1 if state == "all" else 2)  # 1: some of the videos are short
    told = re.findall(r"^   (.*)$", finished.stdout.partition("next steps\n")[2], re.MULTILINE)
    scripts = []
    for command in told:
        if command.startswith("python "):
            _, script, *words = shlex.split(command)
            importlib.import_module(script.removesuffix(".py")).get_args_parser().parse_intermixed_args(words)
            scripts.append(script)
    expected = ["process_pose.py", "motion_pose_cnn_15.py", "skeleton_gcn_15.py", "motion_cnn_15.py"]
    expected += ["average_fusion.py"]
    assert scripts == (expected[1:] if state == "all" else expected)
    assert ("unrar" in finished.stdout) == (state in ("nothing", "some frames"))
    lacking = {"nothing": "18 of 18", "some frames": "1 of 18"}.get(state)
    assert re.findall("frames: missing or incomplete for (.*) videos", finished.stdout) == [lacking] * bool(lacking)
