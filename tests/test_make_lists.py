import hashlib
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cli import UserError
from dataloader.names import Video
from dataloader.split_train_test_video import read_split
from tests.helpers import ROOT, assert_error, call_main
from tests.reference_data import reference_scores
from UCF_list.make_lists import main, split_videos

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


def make_own_lists(videos, out, **options):
    """Run the command line on own videos; returns the paths of the lists."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    main(["--videos", str(videos), "--out", str(out), *flags])
    return sorted(out.glob("*.txt"))


# ---- UCF101 ----


def test_the_official_lists_are_here():
    assert digests(ROOT / "UCF_list") == SHA256


def test_split_04_holds_the_scored_videos():
    split = read_split(ROOT / "UCF_list", "04", "classInd15.txt")
    assert {video.name for video in split.test} == set(reference_scores("spatial"))
    assert not {video.name for video in split.train} & {video.name for video in split.test}


# ---- own videos ----


def test_groups_in_names_stay_together(tmp_path):
    for name, groups in (("Run", 10), ("Hop", 6)):
        clips = [f"g{group:02d}_c{clip:02d}" for group in range(1, groups + 1) for clip in (1, 2)]
        touch(tmp_path / "v", *(f"{name}/v_{name}_{clip}.mp4" for clip in clips))
    make_own_lists(tmp_path / "v", tmp_path / "lists", split="03")
    split = read_split(tmp_path / "lists", "03", "classInd.txt", "vallist03.txt")
    assert split.classes == ["Hop", "Run"]
    groups = [video.path.rsplit("_c", 1)[0] for part in (split.train, split.val, split.test) for video in part]
    assert len(groups) == 32 and set(Counter(groups).values()) == {2}
    parts = [{video.path.rsplit("_c", 1)[0] for video in part} for part in (split.train, split.val, split.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)), "a group is in two lists"
    assert Counter(video.class_name for video in split.test) == {"Run": 6, "Hop": 4}  # 3 of 10, 2 of 6 groups
    assert Counter(video.class_name for video in split.val) == {"Run": 2, "Hop": 2}  # 1 of 7, 1 of 4 groups
    train = (tmp_path / "lists/trainlist03.txt").read_text().splitlines()
    assert {(line.split("/")[0], line.split()[-1]) for line in train} == {("Hop", "1"), ("Run", "2")}


def test_without_groups_each_class_is_split_alike(tmp_path, capsys):
    touch(tmp_path / "v", *(f"{name}/{i}.avi" for name in "ab" for i in range(20)), "c/x.webm", "c/y.GIF")
    options = {"test_fraction": 0.25, "val_fraction": 0.2}
    paths = make_own_lists(tmp_path / "v", tmp_path / "lists", **options, seed=3)
    split = read_split(tmp_path / "lists", "01", "classInd.txt", "vallist01.txt")
    assert Counter(video.class_name for video in split.test) == {"a": 5, "b": 5, "c": 1}
    assert Counter(video.class_name for video in split.val) == {"a": 3, "b": 3}
    assert Counter(video.class_name for video in split.train) == {"a": 12, "b": 12, "c": 1}
    assert "42 videos are groups of their own" in capsys.readouterr().out
    # the same positions in both classes would mean that the hash ignores the class
    for part in (split.test, split.val):
        chosen = {name: {v.path[2:] for v in part if v.class_name == name} for name in "ab"}
        assert chosen["a"] != chosen["b"]
    first = [path.read_bytes() for path in paths]
    make_own_lists(tmp_path / "v", tmp_path / "lists", **options, seed=3)
    assert [path.read_bytes() for path in paths] == first
    make_own_lists(tmp_path / "v", tmp_path / "lists", **options, seed=4)
    assert not any(path.read_bytes() == before for path, before in list(zip(paths, first, strict=True))[1:])


def test_validation_videos_come_out_of_the_training_list(tmp_path):
    touch(tmp_path / "v", *(f"{name}/{i}.avi" for name in "ab" for i in range(9)))
    lists = tmp_path / "lists"
    make_own_lists(tmp_path / "v", lists, val_fraction=0.3)
    read = {name: (lists / f"{name}list01.txt").read_text().splitlines() for name in ("train", "val", "test")}
    assert len(read["val"]) == 4
    make_own_lists(tmp_path / "v", lists, val_fraction=0)
    assert sorted((lists / "trainlist01.txt").read_text().splitlines()) == sorted(read["train"] + read["val"])
    assert (lists / "testlist01.txt").read_text().splitlines() == read["test"]
    assert not (lists / "vallist01.txt").exists(), "a list of the call before, whose videos are trained on now"


@pytest.mark.parametrize("pattern", [r"^(p\d+)-", r"(?P<x>-)?(?P<group>p\d+)"])
def test_groups_from_an_expression_hold_across_classes(tmp_path, pattern):
    for name in ("wave", "clap"):
        touch(tmp_path / "v", *(f"{name}/p{person}-{name}-{i}.mkv" for person in range(9) for i in "ab"))
    make_own_lists(tmp_path / "v", tmp_path / "lists", groups_from=pattern)
    split = read_split(tmp_path / "lists", "01", "classInd.txt", "vallist01.txt")
    people = [{video.path.split("/")[1][:2] for video in part} for part in (split.train, split.val, split.test)]
    assert len(set.union(*people)) == 9 and [len(part) for part in people] == [5, 1, 3]
    assert Counter(video.class_name for video in split.test) == {"wave": 6, "clap": 6}


@pytest.mark.parametrize("spelling", ["{name}/{stem}.MP4", "{name}/{stem}", "{name}/v_{stem}.MP4"])
def test_groups_from_a_csv_file(tmp_path, spelling, capsys):
    names, rows = "xy", ["video,person"]
    for name in names:
        for i in range(12):
            touch(tmp_path / "v", f"{name}/clip {i}.MP4")
            rows.append(spelling.format(name=name, stem=f"clip {i}") + f",person {i % 4}")
    touch(tmp_path / "v", "x/alone.avi")
    rows.append("alone,Ann")  # in one class only, so its name is enough
    (tmp_path / "people.csv").write_text("\n".join([*rows, "y/unknown,Zoe"]) + "\n", encoding="utf-8-sig")
    make_own_lists(tmp_path / "v", tmp_path / "lists", groups_csv=tmp_path / "people.csv")
    assert "; 0 videos" in capsys.readouterr().out
    split = read_split(tmp_path / "lists", "01", "classInd.txt", "vallist01.txt")
    people = [
        {int(video.path.split()[1].split(".")[0]) % 4 for video in part if "clip" in video.path}
        for part in (split.train, split.val, split.test)
    ]
    assert sorted(sum(map(sorted, people), [])) == [0, 1, 2, 3] and len(people[2]) == 1

    (tmp_path / "people.csv").write_text("\n".join(rows[:10]))
    make_own_lists(tmp_path / "v", tmp_path / "lists", groups_csv=tmp_path / "people.csv")
    assert "16 videos are groups of their own" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, words",
    [
        ("a/1.mp4\n", "expected lines VIDEO,GROUP"),
        ("a/1.mp4,\n", "expected lines VIDEO,GROUP"),
        ("a/1.mp4,anna\na/1.mp4,bob\n", "'a/1.mp4,bob': expected lines VIDEO,GROUP, one group a video"),
        ("x.mp4,anna\n", "gives no video a group, such as a/1.mp4"),
    ],
)
def test_mistakes_in_a_csv_file(tmp_path, text, words):
    touch(tmp_path / "v", "a/1.mp4", "a/2.mp4")
    (tmp_path / "people.csv").write_text(text)
    paths = ("--videos", tmp_path / "v", "--out", tmp_path / "lists", "--groups-csv", tmp_path / "people.csv")
    assert_error(call_main("UCF_list.make_lists", *paths), words, "people.csv")


HOSTILE = ["two words", "Übung", unicodedata.normalize("NFD", "Müllerstraße"), "dots.and.more", "-dash", "日本語"]
HOSTILE += ["1 starts with a number", "#hash", "100%", "quote'\"", "comma,semi;"]


def test_hostile_names_survive_the_way_through_the_lists(tmp_path):
    files = ["clip 1.avi", "clip 2.mp4", "v_Ä.ö-ü 3.mkv", "12.mov", "a.b.c.MP4"]
    files.append(unicodedata.normalize("NFD", "é 4.webm"))
    touch(tmp_path / "v", *(f"{name}/{file}" for name in HOSTILE for file in files))
    make_own_lists(tmp_path / "v", tmp_path / "lists")
    split = read_split(tmp_path / "lists", "01", "classInd.txt", "vallist01.txt")
    assert sorted(split.classes) == sorted(HOSTILE)
    videos = split.train + split.val + split.test
    assert len({video.name for video in videos}) == len(videos) == len(HOSTILE) * len(files)
    for video in videos:
        assert (tmp_path / "v" / video.path).is_file(), video
        assert split.classes[video.label] == video.class_name
    for part in (split.train, split.val, split.test):
        assert {video.label for video in part} == set(range(len(HOSTILE)))


def test_hidden_and_other_files_are_passed_over(tmp_path):
    others = "a/._1.mp4 a/.hidden.avi a/notes.txt a/deep.mp4/x.mp4 a/noext .git/3.mp4 top.mp4"
    touch(tmp_path / "v", "a/1.mp4", "a/2.mp4", "b/1.avi", "b/2.avi", *others.split())
    make_own_lists(tmp_path / "v", tmp_path / "lists")
    split = read_split(tmp_path / "lists", "01", "classInd.txt")
    assert sorted(v.path for v in split.train + split.test) == ["a/1.mp4", "a/2.mp4", "b/1.avi", "b/2.avi"]


@pytest.mark.parametrize(
    "names, options, words",
    [
        ([], [], "no class folders"),
        (["a/1.mp4", "a/2.mp4", "b/1.mp4"], [], "class 'b': no test video left"),
        (["a/1.mp4", "a/2.mp4", "b/x_g01_c1.mp4", "b/x_g01_c2.mp4"], [], "class 'b': no test video left"),
        (["a/1.mp4", "a/2.mp4", "b/notes.txt"], [], "b: no videos in"),
        (["a/v_1.mp4", "a/1.avi"], [], "a/1.avi and a/v_1.mp4"),
        (["a/1.mp4", "a/new\nline.mp4"], [], "new\\nline.mp4"),
        (["a /1.mp4", "a /2.mp4"], [], "rename it"),
        (["a/1.mp4", "a/\udcff.mp4"], [], "rename it"),
        (["\u00e4/1.mp4", "\u00e4/2.mp4", "a\u0308/1.mp4", "a\u0308/2.mp4"], [], "both would be called"),
        (["a/1.mp4", "a/2.mp4"], ["--groups-from", "("], "--groups-from"),
        (["a/x.mp4", "a/y.mp4"], ["--groups-from", r"(\d)"], "gives no video a group, such as a/x.mp4"),
        (["a/1.mp4", "a/2.mp4"], ["--groups-from", "(1)", "--groups-csv", "x"], "not allowed with"),
        (["a/1.mp4", "a/2.mp4"], ["--test-fraction", "2"], "is not between 0 and 1"),
        (["a/1.mp4", "a/2.mp4"], ["--out", ROOT / "UCF_list"], "UCF_list: holds UCF101's lists"),
    ],
)
def test_own_mistakes(tmp_path, names, options, words, capsys):
    (tmp_path / "v").mkdir()
    touch(tmp_path / "v", *names)
    with pytest.raises((UserError, SystemExit)) as caught:
        main(["--videos", str(tmp_path / "v"), "--out", str(tmp_path / "lists"), *map(str, options)])
    assert words in str(caught.value) + capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


def groups_of_videos(sizes):
    """Groups as `find_groups` has them: `sizes[class][group]` videos."""
    return {
        Video(f"{g}-{i}", c, f"class{c}", f"class{c}/{g}-{i}.mp4"): (f"class{c}", g)
        for c, counts in enumerate(sizes)
        for g, count in enumerate(counts)
        for i in range(count)
    }


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=8), min_size=1, max_size=5),
    st.integers(0, 9),
    st.floats(0.05, 0.95),
    st.floats(0, 0.95),
)
def test_each_video_is_in_one_list_and_every_class_keeps_videos_to_train_on(sizes, seed, test_fraction, val_fraction):
    groups = groups_of_videos(sizes)
    parts = split_videos(groups, test_fraction, val_fraction, seed)
    assert sorted(v.path for part in parts.values() for v in part) == sorted(v.path for v in groups)
    held = {what: {groups[video] for video in part} for what, part in parts.items()}
    assert len(set.union(*held.values())) == sum(map(len, held.values())), "a group is in two lists"
    for c, counts in enumerate(sizes):
        here = {what: sum(name == f"class{c}" for name, _ in part) for what, part in held.items()}
        assert here["train"] >= 1 and here["test"] >= 1
        tested = sum(count for g, count in enumerate(counts) if (f"class{c}", g) in held["test"])
        for g, count in enumerate(counts):  # no group that changes sides brings the share nearer to the fraction
            moved = tested - count if (f"class{c}", g) in held["test"] else tested + count
            if 0 < moved < sum(counts):
                goal = test_fraction * sum(counts)
                assert abs(tested - goal) <= abs(moved - goal) + 1e-6
        if val_fraction == 0:
            assert here["val"] == 0
        elif len(counts) - here["test"] >= 3:
            assert here["val"] >= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=40), st.integers(0, 9))
def test_groups_across_classes_leave_no_class_without_training_videos(pairs, seed):
    videos = [Video(f"{i}", c, f"class{c}", f"class{c}/{i}.mp4") for i, (c, _) in enumerate(pairs)]
    groups = {video: (f"person{person}",) for video, (_, person) in zip(videos, pairs, strict=True)}
    try:
        parts = split_videos(groups, 0.3, 0.4, seed)
    except UserError:
        return  # not every choice of people gives each class both
    for name in {video.class_name for video in videos}:
        assert any(video.class_name == name for video in parts["train"])
    people = [{groups[video] for video in part} for part in parts.values()]
    assert len(set.union(*people)) == sum(map(len, people))
