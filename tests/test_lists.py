import unicodedata

import pytest

from common.cli import UserError
from dataloader.names import folder_names, group_of, stem
from dataloader.split_train_test_video import read_class_index, read_split
from tests.helpers import ROOT, SHARED, write_lists


def test_ucf101_lists():
    split = read_split(ROOT / "UCF_list", "04", "classInd15.txt")
    assert (len(split.classes), len(split.train), len(split.test)) == (15, 1378, 550)
    assert split.test[0].name == "Archery_g01_c01"
    assert {video.label for video in split.train} == set(range(15))
    assert all(split.classes[video.label] == video.class_name for video in split.train + split.test)
    whole = read_split(ROOT / "UCF_list", "01", "classInd.txt")
    assert (len(whole.classes), len(whole.train), len(whole.test)) == (101, 9537, 3783)
    odd = next(video for video in whole.test if video.class_name == "HandstandPushups")
    assert odd.name == "HandStandPushups_g01_c01"
    assert {"v_HandStandPushups_g01_c01", "v_HandstandPushups_g01_c01"} <= set(folder_names(odd))
    assert {group_of(video) for video in whole.test} == set(range(1, 8))


def test_names_with_spaces_dots_dashes_and_accents(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Übung 2.0")
    (tmp_path / "classInd15.txt").write_text(f"1 {decomposed}\n2 hand - stand\n", encoding="utf-8")
    (tmp_path / "trainlist04.txt").write_text("Übung 2.0/clip 3.v1.mp4 1\nhand - stand/a b 7.avi\n", encoding="utf-8")
    (tmp_path / "testlist04.txt").write_text("hand - stand/clip 3.v1.mp4\n\n", encoding="utf-8")
    split = read_split(tmp_path, "04", "classInd15.txt")
    # The stem of two classes' videos is the same, so their names carry the class.
    assert [video.name for video in split.train] == [f"{decomposed}/clip 3.v1", "a b 7"]
    assert [video.label for video in split.train + split.test] == [0, 1, 1]
    assert split.test[0].name == "hand - stand/clip 3.v1"
    assert all("/" in name for name in folder_names(split.test[0]))


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("classInd15.txt", "", "is empty; expected lines NUMBER CLASS"),
        ("classInd15.txt", "Archery\n", "line 1"),
        ("classInd15.txt", "1 A\n1 B\n", "line 2: '1 B' comes twice"),
        ("classInd15.txt", "1 A\n2 A\n", "line 2: '2 A' comes twice"),
        ("trainlist04.txt", "\n", "is empty; expected lines CLASS/VIDEO"),
        ("trainlist04.txt", "Yoga/v_Yoga_g01_c01.avi 1\n", "line 1: 'Yoga/.* CLASS/VIDEO FRAMES LABEL"),
        ("testlist04.txt", "v_Archery_g01_c01.avi\n", "testlist04.txt, line 1: 'v_A.* CLASS/VIDEO"),
        ("testlist04.txt", "Archery/a.avi\n\nArchery/a.mp4\n", "testlist04.txt, line 3: .* comes twice, .*, line 1;"),
        ("testlist04.txt", "Archery/b.avi\n", "testlist04.txt, line 1: .* twice, .*trainlist04.txt, line 1;"),
        ("testlist04.txt", "Archery/a.avi\nGolf/a.avi\n", "testlist04.txt, line 2: class 'Golf' has no video"),
        ("testlist04.txt", "Archery/a.avi\nArchery/ü.avi\n".encode("utf-16"), "testlist04.txt: .* UTF-8"),
        ("testlist04.txt", "Archery/a.avi\n".encode("utf-16-le"), "testlist04.txt: .* UTF-8"),
        ("testlist04.txt", "Archery/a.avi\nArchery/ü.avi\n".encode("latin-1"), "testlist04.txt: .* UTF-8"),
    ],
)
def test_mistakes_in_lists_are_named(tmp_path, file, text, words):
    write_lists(tmp_path, ["Archery/b.avi"], ["Archery/a.avi"], classes=("Archery", "Golf"))
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words):
        read_split(tmp_path, "04", "classInd15.txt")


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="nowhere/classInd15.txt: No such file .* has no lists"):
        read_split(tmp_path / "nowhere", "04", "classInd15.txt")
    (tmp_path / "classInd.txt").touch()
    with pytest.raises(UserError, match="classInd15.txt: No such file .* has classInd.txt; see .*--class-index"):
        read_split(tmp_path, "04", "classInd15.txt")


def test_lists_as_hmdb51_has_them(tmp_path):
    """One file for each class and split, 1 for training, 2 for testing, 0 for neither; a class index may lack."""
    for name, labels in (("walk", "1022"), ("brush_hair", "11120")):
        lines = [f"a #{i} {name}_@b!.avi {label} \n" for i, label in enumerate(labels)]
        (tmp_path / f"{name}_test_split1.txt").write_text("".join(lines))
        (tmp_path / f"{name}_test_split2.txt").write_text(lines[0])
    split = read_split(tmp_path, "01", "classInd15.txt")
    assert split.classes == ["brush_hair", "walk"] and [video.label for video in split.train] == [0, 0, 0, 1]
    assert [video.path for video in split.test] == [
        "brush_hair/a #3 brush_hair_@b!.avi",
        "walk/a #2 walk_@b!.avi",
        "walk/a #3 walk_@b!.avi",
    ]
    (tmp_path / "classInd15.txt").write_text("1 walk\n2 brush_hair\n")
    assert read_split(tmp_path, "01", "classInd15.txt").classes == ["walk", "brush_hair"]
    (tmp_path / "walk_test_split1.txt").write_text("a.avi 1\nb.avi\n")
    with pytest.raises(UserError, match=r"walk_test_split1.txt, line 2: expected VIDEO 1 \(training\)"):
        read_split(tmp_path, "1", "classInd15.txt")


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="needs ../shared/cases")
def test_lists_of_others():
    ok, bare, hmdb51 = (
        read_split(SHARED / "cases" / "lists" / name, "01", "classInd.txt")
        for name in ("ok", "no_extension", "hmdb51_style")
    )
    names = [[{video.name for video in part} for part in (split.train, split.test)] for split in (ok, bare, hmdb51)]
    assert names[0] == names[1]
    unused = {name for name in names[0][0] if "_g04_" in name}
    assert names[2] == [names[0][0] - unused, names[0][1]]


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    (tmp_path / "index.txt").write_bytes("\ufeff1 Archery\r\n2 Tai Chi\r\n".encode())
    assert read_class_index(tmp_path / "index.txt") == ["Archery", "Tai Chi"]


def test_stem():
    assert stem("v_Archery_g01_c01.avi") == "Archery_g01_c01"
    assert stem("my video.final.mp4") == stem("v_my video.final") == "my video.final"
