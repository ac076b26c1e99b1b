import hashlib
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cli import UserError
from dataloader.own_videos import choose_test_groups
from dataloader.split_train_test_video import read_split
from tests.helpers import ROOT
from tests.reference_data import reference_scores
from UCF_list.make_lists import main, make_own_lists

SHA256 = {
    "classInd.txt": "18f147f3b964c42d878075f06dd62b5f5b6f92434c06a127334bed591da82172",
    "classInd15.txt": "59de724144858e71f0be5ae113faaee5af63c64a9678b7beed1969725f2a567b",
    "testlist01.txt": "ef9f6cd3fa26e969d61b8dd72c1ebdcb3f477cdece02ef6c3a92f674c75fb040",
    "testlist02.txt": "b6ed340ecdb2011c48372f056fda103de9c4c0f39fd7cd8f5014e5ffc8d2a31a",
    "testlist03.txt": "dbd0f0d521146d2cb53e2aa764e53e5b6415c7fd24d977ef0d26019c33b96fb5",
    "testlist04.txt": "7bc25b9103bf8edd0435200f537336920acc55da216d7ade859a777be75b0a8c",
    "trainlist01.txt": "ed1720ddd9fcbcbb270711a4a4ea3bc85facba70786af8888c0f424b478c2a2f",
    "trainlist02.txt": "a1a6788d2c80587b66e52003057d66230008e193b29d750420be9dde35170293",
    "trainlist03.txt": "7091b3f22293c2cee86e1851787f47cea3a2ac32a07c45eb2470034b2b902edc",
    "trainlist04.txt": "18622905767d75c9ebb078aa77ab901d38505f8c410e90792ff9a3c1432ec64e",
}


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).glob("*.txt")}


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def error_line(*args):
    """The one line on stderr of a run that must end with status 2."""
    result = subprocess.run(
        [sys.executable, "-m", "UCF_list.make_lists", *map(str, args)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2, result
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


# ---- UCF101 ----


def test_script_writes_the_official_lists(tmp_path):
    subprocess.run([sys.executable, "-m", "UCF_list.make_lists", "--out", tmp_path / "lists"], cwd=ROOT, check=True)
    assert digests(tmp_path / "lists") == SHA256


def test_committed_lists_are_the_official_ones():
    assert {name: digest for name, digest in digests(ROOT / "UCF_list").items() if name in SHA256} == SHA256


def test_split_04_holds_the_scored_videos():
    split = read_split(ROOT / "UCF_list", "04", "classInd15.txt")
    assert {video.name for video in split.test} == set(reference_scores("spatial"))
    assert not {video.name for video in split.train} & {video.name for video in split.test}


def test_subset_of_classes(tmp_path):
    main(["--out", str(tmp_path), "--classes", "Skiing,Archery", "--split", "05", "--like", "02"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "classInd_split05.txt",
        "testlist05.txt",
        "trainlist05.txt",
    ]
    split = read_split(tmp_path, "05", "classInd_split05.txt")
    assert split.classes == ["Archery", "Skiing"]
    official = read_split(ROOT / "UCF_list", "02", "classInd.txt")
    for ours, theirs in ((split.train, official.train), (split.test, official.test)):
        assert [v.path for v in ours] == [v.path for v in theirs if v.class_name in split.classes]
    # the same subset from a file, in the form of a class index
    (tmp_path / "mine").write_text("1 Archery\n2 Skiing\n")
    before = digests(tmp_path)
    main(["--out", str(tmp_path), "--classes", str(tmp_path / "mine"), "--split", "05", "--like", "02"])
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    "args, words",
    [
        (["--classes", "Archery,Divin", "--split", "05"], "'Divin'; did you mean Diving?"),
        (["--classes", "Archery,Archery", "--split", "05"], "Archery is given twice"),
        (["--classes", ",", "--split", "05"], "no class names"),
        (["--classes", "Archery", "--split", "04"], "01 to 04 are taken"),
        (["--classes", "Archery"], "needs a --split of its own"),
        (["--split", "../x", "--classes", "Archery"], "expected a number"),
        (["--seed", "1"], "--seed goes with --videos"),
        (["--videos", "."], "--videos needs --out"),
    ],
)
def test_mistakes(args, words, tmp_path):
    assert words in error_line(*args)
    assert digests(ROOT / "UCF_list").items() >= SHA256.items()


# ---- own videos ----


def test_groups_in_names_stay_together(tmp_path):
    for name, groups in (("Run", 10), ("Hop", 6)):
        clips = [f"g{group:02d}_c{clip:02d}" for group in range(1, groups + 1) for clip in (1, 2)]
        touch(tmp_path / "v", *(f"{name}/v_{name}_{clip}.mp4" for clip in clips))
    make_own_lists(tmp_path / "v", tmp_path / "lists", split="03")
    split = read_split(tmp_path / "lists", "03", "classInd.txt")
    assert split.classes == ["Hop", "Run"]
    groups = [{video.path.rsplit("_c", 1)[0] for video in part} for part in (split.train, split.test)]
    assert not groups[0] & groups[1]
    assert Counter(video.class_name for video in split.test) == {"Run": 6, "Hop": 4}  # 3 of 10, 2 of 6 groups
    train = (tmp_path / "lists/trainlist03.txt").read_text().splitlines()
    assert {(line.split("/")[0], line.split()[-1]) for line in train} == {("Hop", "1"), ("Run", "2")}


def test_without_groups_each_class_is_split_alike(tmp_path):
    touch(tmp_path / "v", *(f"{name}/{i}.avi" for name in "ab" for i in range(20)), "c/x.webm", "c/y.GIF")
    paths = make_own_lists(tmp_path / "v", tmp_path / "lists", test_fraction=0.25, seed=3)
    split = read_split(tmp_path / "lists", "01", "classInd.txt")
    assert Counter(video.class_name for video in split.test) == {"a": 5, "b": 5, "c": 1}
    assert len(split.train) + len(split.test) == 42
    # the same 5 positions in both classes would mean that the hash ignores the class
    chosen = {name: {v.path[2:] for v in split.test if v.class_name == name} for name in "ab"}
    assert chosen["a"] != chosen["b"]
    first = [path.read_bytes() for path in paths]
    make_own_lists(tmp_path / "v", tmp_path / "lists", test_fraction=0.25, seed=3)
    assert [path.read_bytes() for path in paths] == first
    make_own_lists(tmp_path / "v", tmp_path / "lists", test_fraction=0.25, seed=4)
    assert [path.read_bytes() for path in paths] != first


@pytest.mark.parametrize("pattern", [r"^(p\d+)-", r"(?P<x>-)?(?P<group>p\d+)"])
def test_groups_from_an_expression_hold_across_classes(tmp_path, pattern):
    for name in ("wave", "clap"):
        touch(tmp_path / "v", *(f"{name}/p{person}-{name}-{i}.mkv" for person in range(9) for i in "ab"))
    make_own_lists(tmp_path / "v", tmp_path / "lists", groups_from=pattern)
    split = read_split(tmp_path / "lists", "01", "classInd.txt")
    people = [{video.path.split("/")[1][:2] for video in part} for part in (split.train, split.test)]
    assert not people[0] & people[1] and len(people[1]) == 3
    assert Counter(video.class_name for video in split.test) == {"wave": 6, "clap": 6}


HOSTILE = [
    "two words",
    "Übung",
    unicodedata.normalize("NFD", "Müllerstraße"),
    "dots.and.more",
    "-dash",
    "日本語",
    "1 starts with a number",
    "#hash",
    "100%",
    "quote'\"",
    "comma,semi;",
]


def test_hostile_names_survive_the_way_through_the_lists(tmp_path):
    files = ["clip 1.avi", "clip 2.mp4", "v_Ä.ö-ü 3.mkv", "12.mov", "a.b.c.MP4"]
    files.append(unicodedata.normalize("NFD", "é 4.webm"))
    touch(tmp_path / "v", *(f"{name}/{file}" for name in HOSTILE for file in files))
    make_own_lists(tmp_path / "v", tmp_path / "lists")
    split = read_split(tmp_path / "lists", "01", "classInd.txt")
    assert sorted(split.classes) == sorted(HOSTILE)
    videos = split.train + split.test
    assert len({video.name for video in videos}) == len(videos) == len(HOSTILE) * len(files)
    for video in videos:
        assert (tmp_path / "v" / video.path).is_file(), video
        assert split.classes[video.label] == video.class_name
    assert {video.label for video in split.train} == {video.label for video in split.test} == set(range(len(HOSTILE)))


def test_hidden_and_other_files_are_passed_over(tmp_path):
    touch(
        tmp_path / "v",
        "a/1.mp4",
        "a/2.mp4",
        "a/._1.mp4",
        "a/.hidden.avi",
        "a/notes.txt",
        "a/deep.mp4/x.mp4",
        "a/noext",
        ".git/3.mp4",
        "top.mp4",
        "b/1.avi",
        "b/2.avi",
    )
    make_own_lists(tmp_path / "v", tmp_path / "lists")
    split = read_split(tmp_path / "lists", "01", "classInd.txt")
    assert sorted(v.path for v in split.train + split.test) == ["a/1.mp4", "a/2.mp4", "b/1.avi", "b/2.avi"]


@pytest.mark.parametrize(
    "names, options, words",
    [
        ([], [], "no class folders"),
        (["a/1.mp4", "a/2.mp4", "b/1.mp4"], [], "class 'b': no test video left"),
        (["a/1.mp4", "a/2.mp4", "b/x_g01_c1.mp4", "b/x_g01_c2.mp4"], [], "class 'b': no test video left"),
        (["a/1.mp4", "a/2.mp4", "b/notes.txt"], [], "class 'b': no videos in"),
        (["a/1.mp4", "a/1.avi"], [], "a/1.avi and a/1.mp4"),
        (["a/v_1.mp4", "a/1.avi"], [], "a/1.avi and a/v_1.mp4"),
        (["a/1.mp4", "a/v_.mp4"], [], "v_.mp4"),
        (["a/1.mp4", "a/new\nline.mp4"], [], "new\\nline.mp4"),
        (["a /1.mp4", "a /2.mp4"], [], "rename it"),
        (["a/1.mp4", "a/\udcff.mp4"], [], "not UTF-8"),
        (["\u00e4/1.mp4", "\u00e4/2.mp4", "a\u0308/1.mp4", "a\u0308/2.mp4"], [], "both would be called"),
        (["a/1.mp4", "a/2.mp4"], ["--groups-from", "("], "not a regular expression"),
        (["a/1.mp4", "a/2.mp4"], ["--groups-from", r"\d"], "captures nothing"),
        (["a/1.mp4", "a/x.mp4"], ["--groups-from", r"(\d)"], "finds no group in a/x.mp4"),
        (["a/1.mp4", "a/2.mp4"], ["--test-fraction", "1"], "must lie between 0 and 1"),
        (["a/1.mp4", "a/2.mp4"], ["--out", ROOT / "UCF_list"], "holds UCF101's lists"),
    ],
)
def test_own_mistakes(tmp_path, names, options, words, capsys):
    (tmp_path / "v").mkdir()
    touch(tmp_path / "v", *names)
    with pytest.raises((UserError, SystemExit)) as caught:
        main(["--videos", str(tmp_path / "v"), "--out", str(tmp_path / "lists"), *map(str, options)])
    assert words in str(caught.value) + capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


def test_mistakes_are_one_line(tmp_path):
    touch(tmp_path / "v", "a/1.mp4", "a/new\nline.mp4")
    assert "line break" in error_line("--videos", tmp_path / "v", "--out", tmp_path / "lists")
    assert "no such folder" in error_line("--videos", tmp_path / "missing", "--out", tmp_path / "lists")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=8), min_size=1, max_size=5),
    st.integers(0, 9),
    st.floats(0.05, 0.95),
)
def test_every_class_with_two_groups_gets_both_lists(sizes, seed, fraction):
    groups = {
        (f"class{c}", f"{g}-{i}.mp4"): (f"class{c}", g)
        for c, counts in enumerate(sizes)
        for g, count in enumerate(counts)
        for i in range(count)
    }
    chosen = choose_test_groups(groups, fraction, seed)
    for c, counts in enumerate(sizes):
        tested = sum(count for g, count in enumerate(counts) if (f"class{c}", g) in chosen)
        assert 0 < tested < sum(counts)
        # no single group on the wrong side of the fraction could be moved to come nearer
        for g, count in enumerate(counts):
            moved = tested - count if (f"class{c}", g) in chosen else tested + count
            if 0 < moved < sum(counts):
                goal = fraction * sum(counts)
                assert abs(tested - goal) <= abs(moved - goal) + 1e-6
