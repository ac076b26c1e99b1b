"""What is looked at before weights are read or downloaded, mixed-up files and folders, and how much is printed."""

import re
import select
import shutil
import subprocess

import pytest

from common.cli import print_first
from common.parallel import print_problems
from tests.helpers import ROOT, assert_error, call_main, write_images, write_lists


@pytest.fixture
def tiny_lists(tmp_path):
    write_lists(tmp_path / "lists", ["Diving/b.avi", "Archery/b.avi"], ["Archery/a.avi"])
    for name in ("a", "b"):
        write_images(tmp_path / "frames" / name, 3, 0, (16, 16), 0)
    return tmp_path


@pytest.fixture
def nothing_is_read(monkeypatch):
    """Fail where weights are downloaded, or a checkpoint or weights file is read."""

    def fail(*arguments, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr("network.download", fail)
    monkeypatch.setattr("torch.load", fail)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "{root}/nowhere"), "nowhere"),
        (("--data", "{root}/empty"), "the folder is empty"),
        (("--ucf-list", "{root}/nowhere"), "nowhere/classInd15.txt: No such file"),
        (("--split", "07"), "trainlist07.txt"),
        (("--class-index", "classInd.txt"), "that folder has classInd15.txt, "),
        (("--val-list", "vallist04.txt"), "vallist04.txt"),
    ],
)
def test_lists_and_data_come_before_weights(arguments, words, tiny_lists, nothing_is_read):
    (tiny_lists / "empty").mkdir()
    places = ("--data", tiny_lists / "frames", "--ucf-list", tiny_lists / "lists", "--record", tiny_lists / "record")
    given = (argument.format(root=tiny_lists) for argument in arguments)
    assert_error(call_main("spatial_cnn_15", *places, "--weights", "imagenet", *given), words)


def test_videos_that_are_missing_come_before_weights(tiny_lists, nothing_is_read):
    shutil.rmtree(tiny_lists / "frames" / "b")
    places = ("--data", tiny_lists / "frames", "--ucf-list", tiny_lists / "lists", "--record", tiny_lists / "record")
    assert_error(call_main("spatial_cnn_15", *places), "has no folder below", "2 of the 2")


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("predict", ("{root}/videos/a.avi", "--spatial", "{root}/run"), "such as {root}/run/model_best.pth.tar"),
        ("export_onnx", ("{root}/run", "{root}/out.onnx"), "is a folder; give a checkpoint"),
        ("average_fusion", ("{root}/run",), "run: Is a directory"),
        ("temporal_cnn_15", ("--features", "{root}/run"), "run: Is a directory"),
        ("process_pose", ("--frames", "{root}/videos", "--out", "{root}/out"), "--videos-in"),
        ("process_pose", ("--frames", "{root}", "--out", "{root}/out"), "--videos-in"),
        (
            "process_pose",
            ("--frames", "{root}/frames", "--videos", "{root}/videos", "--out", "{root}/o"),
            "videos: Is a dir",
        ),
        ("spatial_cnn_15", ("{places}", "--resume", "{root}/run"), "such as {root}/run/model_best.pth.tar"),
        ("spatial_cnn_15", ("{places}", "--weights", "{root}/run"), "such as {root}/run/model_best.pth.tar"),
        ("spatial_cnn_15", ("{places}", "--weights", "{root}/no.pth"), "no.pth: no such file"),
    ],
)
def test_a_folder_for_a_file_and_the_other_way_round(script, arguments, words, tiny_lists, nothing_is_read):
    root = tiny_lists
    (root / "videos").mkdir()
    (root / "videos" / "a.avi").write_bytes(b"a video")
    (root / "run").mkdir()
    for name in ("checkpoint.pth.tar", "model_best.pth.tar"):
        (root / "run" / name).write_bytes(b"")
    if words == "--videos-in" and arguments[1] == "{root}":  # class folders of videos
        shutil.rmtree(root / "frames")
        shutil.rmtree(root / "lists")
    given = [argument.format(root=root, places="{places}") for argument in arguments]
    if given[0] == "{places}":
        given[:1] = ["--data", root / "frames", "--ucf-list", root / "lists"]
    assert_error(call_main(script, *given), words.format(root=root))


# ---- how much is printed ----


def test_the_demos_lines_of_the_streams_appear_at_once():
    """The filter that names them passes each on, whether or not more follows."""
    command = re.search(r"sed .*?'s.*?'", (ROOT / "Makefile").read_text())[0]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(["bash", "-c", command], **pipes) as process:
        process.stdin.write("epoch 0\n")
        process.stdin.flush()
        appeared = select.select([process.stdout], [], [], 5)[0]
        process.kill()
    assert appeared


def test_the_first_lines_and_how_many_more(capsys):
    print_first([f"line {number}" for number in range(5)], "all in summary.json")
    assert capsys.readouterr().err.splitlines() == [f"line {number}" for number in range(5)]
    print_first([f"  line {number}" for number in range(1718)], "all in summary.json")
    out = capsys.readouterr()
    assert out.out == "" and out.err.splitlines()[4:] == ["  line 4", "  … and 1,713 more; all in summary.json"]
    print_first(["line"] * 9, limit=None)
    assert len(capsys.readouterr().err.splitlines()) == 9
    print_first([])
    assert capsys.readouterr().err == ""


def test_many_problems_are_in_a_file_that_is_of_this_run(tmp_path, capsys):
    path = tmp_path / "skipped-3-of-8.txt"
    lines = [f"skipped: {number}:\nbad" for number in range(7)]
    print_problems(lines, tmp_path, "skipped", "3/8")
    err = capsys.readouterr().err.splitlines()
    assert err == [f"skipped: {number}: bad" for number in range(5)] + [f"… and 2 more; all in {path}"]
    assert path.read_text().splitlines() == [line.replace("\n", " ") for line in lines]
    print_problems(lines[:5], tmp_path, "skipped", "3/8")
    assert not path.exists() and len(capsys.readouterr().err.splitlines()) == 5


def test_a_list_of_missing_videos_is_told_in_five_lines_before_the_table(tmp_path):
    write_images(tmp_path / "frames" / "v_there", 2, 0, (16, 16), 0)
    (tmp_path / "list.txt").write_text("".join(f"Class/v_{number}.avi\n" for number in range(40)))
    options = ("--frames", tmp_path / "frames", "--out", tmp_path / "out", "--videos", tmp_path / "list.txt")
    pose = ("--from-keypoints",)  # no network
    (tmp_path / "out" / "there").mkdir(parents=True)
    finished = call_main("process_pose", *options, *pose)
    lines = finished.stderr.splitlines()
    assert finished.returncode == 1 and sum(line.startswith("failed: ") for line in lines) == 5
    assert lines[-1] == f"… and 35 more; all in {tmp_path / 'out' / 'failed.txt'}"
    assert "videos failed                    40" in finished.stdout
