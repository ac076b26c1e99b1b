import csv
import json
import pickle
import re
import statistics

import numpy as np
import pytest
from PIL import Image

import average_fusion
from common.cli import UserError
from dataloader.split_train_test_video import read_split
from fusion import report
from fusion import scores as matching
from fusion.metrics import fuse, precision
from fusion.scores import load_scores, load_table, save_scores
from tests.helpers import ROOT, assert_error, call_main, write_video
from tests.reference_data import write_reference_pickles

CLASSES = ["Rad schlagen", "跳-Übung.1", "HandstandPushups", "d$c"]
FILES = ["v_Rad schlagen", "v_跳-Übung.1", "v_HandStandPushups", "d$c v1.2"]


@pytest.fixture(autouse=True)
def no_matrices(monkeypatch):
    """Confusion matrices are not drawn, which takes most of a fusion's time, but where a test undoes it."""
    monkeypatch.setattr(report, "plot_confusion", lambda *arguments: None)


@pytest.fixture
def lists(tmp_path):
    """Lists 01 to 03 of four classes; each class has groups 1–6, of which two are the test set of each list."""
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "classes.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(CLASSES, 1)))
    for split in (1, 2, 3):
        lines = {True: [], False: []}
        for name, file in zip(CLASSES, FILES, strict=True):
            for group in range(1, 7):
                lines[group in (2 * split - 1, 2 * split)] += [
                    f"{name}/{file}_g{group:02d}_c{c:02d}.avi" for c in (1, 2, 3)
                ]
        (folder / f"testlist{split:02d}.txt").write_text("\n".join(lines[True]))
        (folder / f"trainlist{split:02d}.txt").write_text("\n".join(line + " 1" for line in lines[False]))
    return folder


def listed(lists, what="test", split="01"):
    """Names and labels of a list, read without the project's own reader."""
    names, labels = [], []
    for line in (lists / f"{what}list{split}.txt").read_text().splitlines():
        folder, _, file = line.partition("/")
        names.append(file.partition(".avi")[0].removeprefix("v_"))
        labels.append(CLASSES.index(folder))
    return names, np.array(labels)


def make_scores(names, labels, seed, strength=1.5):
    scores = np.random.default_rng(seed).normal(size=(len(names), len(CLASSES))).astype("f4")
    scores[np.arange(len(names)), labels] += strength
    return dict(zip(names, scores, strict=True))


def make_streams(folder, lists, split="01", seeds=(1, 2)):
    names, labels = listed(lists, split=split)
    paths = [folder / f"{stream}_video_preds.pickle" for stream in ("spatial", "motion_pose", "third")[: len(seeds)]]
    for path, seed in zip(paths, seeds, strict=True):
        save_scores(path, make_scores(names, labels, seed))
    return paths


def fuse_them(tmp_path, lists, *arguments, split=("01",)):
    out = tmp_path / "out"
    options = ("--ucf-list", lists, "--class-index", "classes.txt", "--split", *split, "--out", out)
    average_fusion.main([*map(str, (*arguments, *options))])
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def table_of(path, lists):
    """What a pickle holds for the test list 01, as plain lists."""
    table = load_table(str(path), read_split(lists, "01", "classes.txt").test, "the list", 4)
    return {name: row.tolist() for name, row in table.items()}


def by_hand(paths, names, labels, weights):
    """Prec@1 and Prec@3 of a weighted mean, with plain pickle and loops."""
    tables = [pickle.loads(path.read_bytes()) for path in paths]
    hits = [0, 0]
    for name, label in zip(names, labels, strict=True):
        mean = sum(weight * table[name] for weight, table in zip(weights, tables, strict=True)) / sum(weights)
        order = sorted(range(len(mean)), key=lambda i: -mean[i])
        hits = [hits[0] + (order[0] == label), hits[1] + (label in order[:3])]
    return [100 * hit / len(names) for hit in hits]


# ---- figures ----


def test_reference_scores(tmp_path, monkeypatch):
    monkeypatch.undo()
    paths = write_reference_pickles(tmp_path)
    done = call_main("average_fusion", *paths, "--out", tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["spatial", "0.50", "78.18", "92.55"] in lines
    assert ["motion_pose", "0.50", "67.09", "89.27"] in lines
    assert ["fused", "86.55", "95.45"] in lines
    assert ["JumpingJack", "37", "64.9", "91.9", "100.0", "+35.1"] in lines
    first, second = (pickle.loads(path.read_bytes()) for path in paths)
    fused = pickle.loads((tmp_path / "fusion_video_preds.pickle").read_bytes())
    assert fused.keys() == first.keys()
    for name, vector in fused.items():
        np.testing.assert_allclose(vector, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-5)
    with (tmp_path / "conf_matrix.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    matrix = np.array([row[1:] for row in rows[1:]], int)
    assert rows[0][1:] == [row[0] for row in rows[1:]] and len(rows) == 16
    assert matrix.sum() == 550 and round(100 * np.trace(matrix) / 550, 2) == 86.55
    assert min(Image.open(tmp_path / "conf_matrix.png").size) > 900


@pytest.mark.parametrize("weights", [None, (1, 3), (0.2, 0)])
def test_two_streams_with_hostile_names(tmp_path, lists, weights, capsys):
    paths = make_streams(tmp_path, lists)
    names, labels = listed(lists)
    extra = ["--weights", *weights] if weights else []
    summary = fuse_them(tmp_path, lists, *paths, *extra)
    figures = summary["splits"][0]["figures"]
    for stream, expected in zip(("spatial", "motion_pose", "fused"), ((1, 0), (0, 1), weights or (1, 1)), strict=True):
        assert list(figures[stream].values()) == pytest.approx(by_hand(paths, names, labels, expected))
    fused = load_scores(tmp_path / "out" / "fusion_video_preds.pickle")
    assert list(fused) == names
    predicted = np.array([vector.argmax() for vector in fused.values()])
    with (tmp_path / "out" / "conf_matrix.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == CLASSES and [row[0] for row in rows[1:]] == CLASSES
    for i in range(4):
        for j in range(4):
            assert int(rows[i + 1][j + 1]) == sum((labels == i) & (predicted == j))
    output = capsys.readouterr().out
    for i, name in enumerate(CLASSES):
        fused_accuracy = 100 * np.mean(predicted[labels == i] == i)
        row = next(line for line in output.splitlines() if line.startswith(name))
        assert row.removeprefix(name).split()[3] == f"{fused_accuracy:.1f}"
        assert summary["classes"][i]["prec1"]["fused"] == pytest.approx(fused_accuracy)


def test_one_stream_and_three_streams(tmp_path, lists, capsys):
    paths = make_streams(tmp_path, lists, seeds=(1, 2, 3))
    names, labels = listed(lists)
    alone = fuse_them(tmp_path, lists, paths[0])["splits"][0]["figures"]
    assert alone["fused"] == alone["spatial"]
    assert "without" not in capsys.readouterr().out
    three = fuse_them(tmp_path, lists, *paths, "--weights", 1, 2, 0.5)["splits"][0]
    assert list(three["figures"]["fused"].values()) == pytest.approx(by_hand(paths, names, labels, (1, 2, 0.5)))
    assert sum(three["weights"].values()) == pytest.approx(1)
    printed = capsys.readouterr().out
    for name, others, weights in (("third", paths[:2], (1, 2)), ("spatial", paths[1:], (2, 0.5))):
        prec1, prec3 = by_hand(others, names, labels, weights)
        assert re.search(rf"fused without {name} +{prec1:.2f} +{prec3:.2f}", printed), printed


def test_defaults_and_order_of_arguments(tmp_path, lists, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--ucf-list", str(lists), "--class-index", "classes.txt"]
    names, labels = listed(lists)
    for seed, stream in enumerate(("spatial", "motion_pose")):
        path = tmp_path / "record" / stream / f"{stream}_video_preds.pickle"
        save_scores(path, make_scores(names, labels, seed))
    average_fusion.main(["--split", "01", *common])
    output = capsys.readouterr().out
    assert (tmp_path / "record/fusion/conf_matrix.csv").exists()
    pickles = ["record/spatial/spatial_video_preds.pickle", "record/motion_pose/motion_pose_video_preds.pickle"]
    average_fusion.main(["--split", "01", "--out", "record/fusion", pickles[0], *common, pickles[1]])
    assert capsys.readouterr().out == output


def test_other_spellings_of_names_are_found(tmp_path, lists):
    names, labels = listed(lists)
    scores = make_scores(names, labels, 0)
    expected = {name: row.tolist() for name, row in scores.items()}
    changes = {
        "prefix": lambda name, label: f"v_{name}",
        "spelling": lambda name, label: name.replace("HandStand", "Handstand"),
        "class": lambda name, label: f"{CLASSES[label]}/v_{name}",
        "extension": lambda name, label: f"v_{name}.avi",
        "decomposed": lambda name, label: name.replace("Ü", "U\u0308"),
    }
    for case, change in changes.items():
        renamed = {change(name, label): scores[name] for name, label in zip(names, labels, strict=True)}
        assert renamed.keys() != scores.keys()
        assert table_of(write(tmp_path / f"{case}.pickle", renamed), lists) == expected


def test_scores_as_other_code_saves_them(tmp_path, lists):
    """Lists in place of arrays, and mmaction2's results in the order of the list, with labels or without."""
    names, labels = listed(lists)
    scores = make_scores(names, labels, 0)
    rows, path = list(scores.values()), tmp_path / "scores.pickle"
    dicts = [{"pred_score": row, "gt_label": np.array([label])} for row, label in zip(rows, labels, strict=True)]
    for content in (
        {name: row.tolist() for name, row in scores.items()},
        {name: (tuple(row.tolist()),) for name, row in scores.items()},
        dicts,
        [{"pred_score": row.tolist(), "gt_label": int(label)} for row, label in zip(rows, labels, strict=True)],
        rows,
    ):
        path.write_bytes(pickle.dumps(content))
        assert table_of(path, lists) == {name: row.tolist() for name, row in scores.items()}
    for content, words in (
        (dicts[1:], f"has 23 results, the list {len(names)} videos"),
        (dicts[::-1], f"result for {re.escape(repr(names[0]))}, by the list's order, is of another class"),
        ([{"pred_label": 1}] * 24, "holds NoneType"),
        ([[1.0, [2.0]]] * 24, "holds list"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=words):
            table_of(path, lists)


def test_probabilities_beside_logits_are_noted(tmp_path, lists, capsys):
    paths = make_streams(tmp_path, lists)
    fuse_them(tmp_path, lists, *paths)
    assert ": probabilities" not in capsys.readouterr().out
    powers = {name: np.exp(row) for name, row in load_scores(paths[1]).items()}
    save_scores(paths[1], {name: row / row.sum() for name, row in powers.items()})
    fuse_them(tmp_path, lists, *paths)
    assert "note: motion_pose: probabilities" in capsys.readouterr().out


@pytest.mark.skipif(not (ROOT.parent / "shared" / "cases").is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("pose", ["pose_keys_with_v_and_extension.pickle", "pose_lists.pickle", "mmaction2_result.pkl"])
def test_score_pickles_of_others(tmp_path, pose, capsys):
    folder = ROOT.parent / "shared" / "cases" / "scores"
    options = ["--ucf-list", folder / "lists", "--class-index", "classInd.txt", "--split", "01", "--out", tmp_path]
    average_fusion.main([*map(str, [folder / "rgb.pickle", folder / pose, *options])])
    prec1 = [row.split()[-2] for row in capsys.readouterr().out.splitlines()[3:6]]
    assert prec1[:2] == ["50.00", "66.67"]
    assert pose.endswith(".pkl") or prec1[2] == "75.00"


def write(path, scores):
    save_scores(path, scores)
    return path


# ---- what does not match ----


def test_sets_that_do_not_match(tmp_path, lists):
    names, labels = listed(lists)
    good = write(tmp_path / "good.pickle", make_scores(names, labels, 0))
    scores = make_scores(names, labels, 1)

    def refused(changed, *options):
        path = write(tmp_path / "changed.pickle", changed)
        with pytest.raises(UserError) as caught:
            fuse_them(tmp_path, lists, good, path, *options)
        assert str(path) in str(caught.value)
        return str(caught.value)

    fewer = {name: vector for name, vector in scores.items() if name not in names[3:8]}
    message = refused(fewer)
    assert "5 of the 24 videos" in message and names[3] in message and "--skip-missing" in message
    message = refused(scores | {"Unknown_g01_c01": scores[names[0]]})
    assert "1 of its 25 videos" in message and "Unknown_g01_c01" in message
    assert "Unknown" in refused(scores | {"Unknown_g01_c01": scores[names[0]]}, "--skip-missing")
    message = refused({name: np.ones(5) for name in names})
    assert "5 scores of" in message and "4 classes" in message
    other_names, other_labels = listed(lists, split="02")
    assert "24 of its 24 videos" in refused(make_scores(other_names, other_labels, 0))
    assert not (tmp_path / "out").exists()


def test_skip_missing_fuses_the_common_videos(tmp_path, lists, capsys):
    names, labels = listed(lists)
    paths = make_streams(tmp_path, lists)
    save_scores(paths[1], {name: v for name, v in load_scores(paths[1]).items() if name not in names[:2]})
    result = fuse_them(tmp_path, lists, *paths, "--skip-missing")["splits"][0]
    assert result["skipped"] == names[:2] and result["videos"] == 22
    assert list(result["figures"]["fused"].values()) == pytest.approx(by_hand(paths, names[2:], labels[2:], (1, 1)))
    assert f"skipped: 2 videos that not every stream has ({names[0]}, {names[1]})" in capsys.readouterr().out
    save_scores(paths[0], {name: v for name, v in load_scores(paths[0]).items() if name in names[:2]})
    with pytest.raises(UserError, match="no scores for 22 of the 24 videos"):
        fuse_them(tmp_path, lists, *paths, "--skip-missing")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.pickle", "--weights", "1", "2"], "one number >= 0 for each of the 1 PICKLEs"),
        (["a.pickle", "b.pickle", "--weights", "1", "-1"], "--weights 1 -1"),
        (["a.pickle", "b.pickle", "--weights", "0", "0"], "not all 0"),
        (["a.pickle", "b.pickle", "--weights", "nan", "1"], "--weights nan"),
        (["a.pickle", "--weights", "auto", "1"], "--weights auto 1"),
        (["missing.pickle", "--split", "99"], "list99.txt"),
        (["missing.pickle", "--wieghts", "1"], "--wieghts 1 (did you mean --weights?)"),
        (["missing.pickle", "--ucf-list", "nowhere"], "nowhere/classInd15.txt: No such file"),
        (["missing.pickle"], "missing.pickle: No such file"),
    ],
)
def test_mistakes_in_arguments(arguments, words):
    lists = () if "--ucf-list" in arguments else ("--ucf-list", ROOT / "UCF_list")
    assert_error(call_main("average_fusion", *arguments, *lists), words)


# ---- weights chosen on validation scores ----


def validation_names(lists):
    """Two groups of the training list, as --val-groups holds them out."""
    names, labels = listed(lists, "train")
    keep = [i for i, name in enumerate(names) if "_g05_" in name or "_g06_" in name]
    return [names[i] for i in keep], labels[keep]


def test_weights_auto(tmp_path, lists, capsys):
    names, labels = listed(lists)
    held_out, val_labels = validation_names(lists)
    paths = [tmp_path / f"{stream}_video_preds.pickle" for stream in ("spatial", "motion_pose")]
    save_scores(paths[0], make_scores(names, labels, 1, strength=0))
    save_scores(paths[1], make_scores(names, labels, 2, strength=9))
    # On the validation set it is the other way round: the test scores must not have a say.
    val_paths = [tmp_path / f"{stream}_video_val_preds.pickle" for stream in ("spatial", "motion_pose")]
    save_scores(val_paths[0], make_scores(held_out, val_labels, 3, strength=1.5))
    save_scores(val_paths[1], {name: 30 * v for name, v in make_scores(held_out, val_labels, 4, strength=0.5).items()})
    result = fuse_them(tmp_path, lists, *paths, "--weights", "auto")["splits"][0]
    assert result["weights"]["spatial"] > 0.8
    weights, validation = list(result["weights"].values()), result["validation"]
    assert validation["weights_chosen"] and validation["videos"] == 24
    for stream, parts in (("spatial", (1, 0)), ("motion_pose", (0, 1)), ("fused", weights)):
        assert validation["prec1"][stream] == pytest.approx(by_hand(val_paths, held_out, val_labels, parts)[0])
    assert list(result["figures"]["fused"].values()) == pytest.approx(by_hand(paths, names, labels, weights))
    output = capsys.readouterr().out
    assert "note: 24 validation videos are few: each counts for 4.2 points" in output
    assert f"weights chosen on the 24 validation videos (Prec@1 {validation['prec1']['fused']:.2f})" in output
    named = fuse_them(tmp_path, lists, *paths, "--weights", "auto", "--val-scores", *val_paths)["splits"][0]
    assert named["weights"] == result["weights"]
    capsys.readouterr()
    plain = fuse_them(tmp_path, lists, *paths)["splits"][0]
    prec1 = plain["validation"]["prec1"]
    assert plain["weights"]["spatial"] == 0.5 and prec1["fused"] < prec1["spatial"]
    alone = f"spatial alone (Prec@1 {prec1['spatial']:.2f}) is better than the fusion ({prec1['fused']:.2f}); --weights"
    assert f"note: on the validation videos {alone} auto" in capsys.readouterr().out


def test_weights_auto_never_takes_test_scores(tmp_path, lists):
    held_out, val_labels = validation_names(lists)
    names, labels = listed(lists)
    paths = make_streams(tmp_path, lists)
    with pytest.raises(UserError, match="spatial_video_val_preds.pickle: no validation scores"):
        fuse_them(tmp_path, lists, *paths, "--weights", "auto")
    with pytest.raises(UserError, match="24 of its 24 videos are not in the training list"):
        fuse_them(tmp_path, lists, *paths, "--weights", "auto", "--val-scores", *paths)
    val = make_scores(held_out, val_labels, 0)
    good = write(tmp_path / "val.pickle", val)
    for changed, words in [
        (val | {names[0]: val[held_out[0]]}, f"1 of its 25 videos are not in the training list \\({names[0]}"),
        (dict(list(val.items())[1:]), "no scores for 1 of the 24 videos of the validation set"),
    ]:
        with pytest.raises(UserError, match=words):
            other = write(tmp_path / "other.pickle", changed)
            fuse_them(tmp_path, lists, *paths, "--weights", "auto", "--val-scores", good, other)


def test_weights_auto_with_a_validation_list(tmp_path, lists):
    """As make_lists.py writes them: validation videos are in a list of their own, not in the training list."""
    lines = (lists / "trainlist01.txt").read_text().splitlines()
    held_out = [line for line in lines if "_g05_" in line or "_g06_" in line]
    (lists / "vallist01.txt").write_text("\n".join(held_out))
    names = validation_names(lists)
    paths = make_streams(tmp_path, lists)
    val_paths = [write(tmp_path / f"{seed}.pickle", make_scores(*names, seed)) for seed in (3, 4)]
    auto = [*paths, "--weights", "auto", "--val-scores", *val_paths]
    expected = fuse_them(tmp_path, lists, *auto)["splits"][0]
    (lists / "trainlist01.txt").write_text("\n".join(line for line in lines if line not in held_out))
    result = fuse_them(tmp_path, lists, *auto, "--val-list", "vallist01.txt")["splits"][0]
    assert result["validation"] == expected["validation"]
    with pytest.raises(UserError, match="not in the training list"):
        fuse_them(tmp_path, lists, *auto)
    with pytest.raises(UserError, match="1 given for 2"):
        fuse_them(tmp_path, lists, *auto[:-1])


def noisy_streams(count, strengths, seed=0):
    """Labels of 4 classes, and per strength scores (N, 4): normal noise with that much added to the true class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    return [generator.normal(size=(count, 4)) + strength * np.eye(4)[labels] for strength in strengths], labels


def test_few_videos_leave_the_weights_nearly_even():
    labels = np.arange(8) % 4
    perfect = 5.0 * np.eye(4)[labels]
    other = perfect.copy()
    other[0] = 9 * np.eye(4)[3]  # one of eight is wrong, so surely that the mean is wrong as well
    assert matching.choose_weights([perfect, other], labels) == pytest.approx((0.5, 0.5), abs=0.2)
    assert matching.choose_weights([perfect[:1], perfect[:1]], labels[:1]) == (0.5, 0.5)


def fitted_loss(scores, labels):
    """Cross-entropy of each video at the best of many temperatures, for these videos and one of an unknown class."""
    found = []
    for power in range(-200, 201):
        scaled = scores / 1.01**power
        losses = np.log(np.exp(scaled).sum(1, keepdims=True)) - scaled
        right = losses[np.arange(len(labels)), labels]
        found.append((len(labels) * right.sum() + losses.mean(1).sum(), tuple(right)))
    return np.array(min(found)[1])


def test_chosen_weights_are_the_most_even_ones_within_a_standard_error():
    """Against a search by hand over two streams."""
    for seed in range(10):
        streams, labels = noisy_streams(60, (2, 0.3), seed)
        found = [fitted_loss(part / 20 * streams[0] + (1 - part / 20) * streams[1], labels) for part in range(21)]
        best = min(found, key=np.sum)
        margins = [np.mean(losses - best) - np.std(losses - best, ddof=1) / 60**0.5 for losses in found]
        chosen = round(20 * matching.choose_weights(streams, labels)[0])
        assert margins[chosen] <= 0.001  # the temperature is found to a thousandth
        assert all(margin > -0.001 for part, margin in enumerate(margins) if abs(part - 10) < abs(chosen - 10))


def test_chosen_weights_beat_equal_ones_where_a_stream_is_weak_and_keep_them_else():
    """Prec@1 on 2000 more videos, mean of ten choices on 100: within half a point where streams are alike."""
    for strengths, least, most in (((2, 0.3), 4, 15), ((1, 1), -0.5, 0.5), ((2, 2, 0), 3, 15), ((1, 1, 1), -0.5, 0.5)):
        gains = []
        for seed in range(10):
            streams, labels = noisy_streams(2100, strengths, seed)
            weights = matching.choose_weights([scores[:100] for scores in streams], labels[:100])
            rest = [scores[100:] for scores in streams]
            gains.append(precision(fuse(rest, weights), labels[100:])[0] - precision(fuse(rest), labels[100:])[0])
        assert least < np.mean(gains) < most


def test_weights_of_many_streams():
    """Of five streams, two of which tell something; of seven alike ones, whose sevenths are on no grid."""
    streams, labels = noisy_streams(400, (0, 2, 0, 2, 0))
    weights = matching.choose_weights(streams, labels)
    assert sum(weights) == pytest.approx(1) and weights[1] + weights[3] > 0.6
    assert matching.choose_weights(streams[1:2] * 7, labels) == (1 / 7,) * 7


# ---- scores that mean little ----


def test_few_videos_and_a_fusion_below_its_better_stream_are_noted(tmp_path, lists, capsys):
    names, labels = listed(lists)
    good, bad = make_scores(names, labels, 1, strength=4), make_scores(names, labels, 2, strength=0)
    paths = [
        write(tmp_path / "x.pickle", {name: 9 * row for name, row in bad.items()}),
        write(tmp_path / "y.pickle", good),
    ]
    alone, fused = by_hand(paths, names, labels, (0, 1))[0], by_hand(paths, names, labels, (1, 1))[0]
    fuse_them(tmp_path, lists, *paths)
    output = capsys.readouterr().out
    assert f"on the test videos y alone (Prec@1 {alone:.2f}) is better than the fusion ({fused:.2f})" in output
    assert "note: 24 test videos are few: each counts for 4.2 points of Prec@1" in output
    fuse_them(tmp_path, lists, *paths, "--weights", 0, 1)
    assert "alone" not in capsys.readouterr().out


# ---- several splits ----


def test_several_splits(tmp_path, lists, capsys):
    splits = ("01", "02", "03")
    by_split = {}
    for number, split in enumerate(splits):
        names, labels = listed(lists, split=split)
        paths = make_streams(tmp_path / "runs" / split, lists, split, seeds=(number, 10 + number))
        by_split[split] = by_hand(paths, names, labels, (1, 1))
    patterns = [tmp_path / "runs/{split}" / f"{name}_video_preds.pickle" for name in ("spatial", "motion_pose")]
    summary = fuse_them(tmp_path, lists, *patterns, split=splits)
    assert [result["split"] for result in summary["splits"]] == list(splits)
    for result in summary["splits"]:
        assert list(result["figures"]["fused"].values()) == pytest.approx(by_split[result["split"]])
    top1 = [values[0] for values in by_split.values()]
    assert summary["mean"]["fused"]["prec1"] == pytest.approx(statistics.mean(top1))
    assert summary["std"]["fused"]["prec1"] == pytest.approx(statistics.stdev(top1))
    assert f"{statistics.mean(top1):.2f} ± {statistics.stdev(top1):.2f}" in capsys.readouterr().out
    total = 0
    for split in splits:
        folder = tmp_path / "out" / f"split{split}"
        assert list(load_scores(folder / "fusion_video_preds.pickle")) == listed(lists, split=split)[0]
        total += read_matrix(folder / "conf_matrix.csv")
    np.testing.assert_array_equal(read_matrix(tmp_path / "out" / "conf_matrix.csv"), total)
    assert total.sum() == 72


def read_matrix(path):
    with path.open(encoding="utf-8", newline="") as file:
        return np.array([row[1:] for row in csv.reader(file)][1:], int)


# ---- mistakes ----


def test_most_confident_mistakes_with_their_pictures(tmp_path, lists, monkeypatch):
    names, labels = listed(lists)
    scores = {name: np.eye(4)[label] * 5 for name, label in zip(names, labels, strict=True)}
    wrong = {names[0]: 3.0, names[9]: 9.0, names[14]: 6.0}
    for name, confidence in wrong.items():
        label = labels[names.index(name)]
        scores[name] = np.eye(4)[(label + 1) % 4] * confidence
    path = write(tmp_path / "spatial_video_preds.pickle", scores)
    frames, pose_flow = tmp_path / "frames", tmp_path / "pose"
    for number, name in enumerate(names):
        for folder, count in ((frames / f"v_{name}", 5), (pose_flow / name, 3)):
            if folder.parent == pose_flow and name == names[0]:
                continue
            folder.mkdir(parents=True)
            for frame in range(1, count + 1):
                Image.new("RGB", (32, 24), (10 * number, 50 * frame, 0)).save(folder / f"frame{frame:06d}.jpg")
    drawn, titles = [], []
    monkeypatch.setattr(report, "write_sheet", lambda to, cells, note: (drawn.extend(cells), titles.append(note)))
    fuse_them(tmp_path, lists, path, "--frames", frames, "--pose-flow", pose_flow)
    assert titles == [f"split 01: 3 of {len(names)} videos misclassified"]
    assert [text.splitlines()[0] for text, _ in drawn] == sorted(wrong, key=wrong.get, reverse=True)
    for text, pictures in drawn:
        name, true, *answers = text.splitlines()
        label, number = labels[names.index(name)], names.index(name)
        probability = np.exp(wrong[name]) / (np.exp(wrong[name]) + 3)
        said = f"{CLASSES[(label + 1) % 4]} ({probability:.0%})"
        assert true == f"true: {CLASSES[label]}" and answers == [f"✗ fused: {said}", f"✗ spatial: {said}"]
        for picture, color in zip(pictures, (150, 100), strict=True):
            if color == 100 and name == names[0]:
                assert picture is None
            else:
                assert np.abs(picture.astype(int) - (10 * number, color, 0)).max() < 9


def test_mistakes_are_shown_from_videos(tmp_path, lists):
    """The middle frame is found without decoding the whole file; a file without any is a grey tile."""
    names, labels = listed(lists)
    scores = {name: np.eye(4)[(label + (i < 2)) % 4] for i, (name, label) in enumerate(zip(names, labels, strict=True))}
    pictures = [np.full((48, 64, 3), 5 * i, np.uint8) for i in range(40)]
    write_video(tmp_path / "videos" / f"v_{names[0]}.avi", pictures, rate=25)
    (tmp_path / "videos" / f"v_{names[1]}.avi").write_bytes(b"broken")
    path = write(tmp_path / "spatial_video_preds.pickle", scores)
    fuse_them(tmp_path, lists, path, "--frames", tmp_path / "videos")
    sheet = np.asarray(Image.open(tmp_path / "out" / "misclassified.png").convert("RGB")).astype(int)
    assert (np.abs(sheet - 100).max(2) < 8).sum() > 0.9 * 180 * 240  # frame 20 of 40
    assert ((sheet == 225).all(2)).sum() > 0.9 * 180 * 240
