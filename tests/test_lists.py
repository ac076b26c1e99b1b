import unicodedata

import pytest

from common.cli import UserError
from dataloader.names import folder_names, group_of, stem
from dataloader.split_train_test_video import read_class_index, read_split
from tests.helpers import ROOT, write_lists


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
        ("classInd15.txt", "", "no classes"),
        ("classInd15.txt", "Archery\n", "line 1"),
        ("classInd15.txt", "1 A\n1 B\n", "comes twice"),
        ("classInd15.txt", "1 A\n2 A\n", "comes twice"),
        ("trainlist04.txt", "", "no videos"),
        ("trainlist04.txt", "Yoga/v_Yoga_g01_c01.avi 1\n", "'Yoga'"),
        ("testlist04.txt", "v_Archery_g01_c01.avi\n", "line 1"),
        ("testlist04.txt", "Archery/a.avi\nArchery/a.avi\n", "comes twice"),
        ("testlist04.txt", "Archery/b.avi\n", "comes twice"),
    ],
)
def test_mistakes_in_lists_are_named(tmp_path, file, text, words):
    write_lists(tmp_path, ["Archery/b.avi"], ["Archery/a.avi"], classes=("Archery",))
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=words):
        read_split(tmp_path, "04", "classInd15.txt")


def test_missing_or_binary_files(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_split(tmp_path / "nowhere", "04", "classInd15.txt")
    with pytest.raises(UserError, match="no such file"):
        read_split(tmp_path, "04", "classInd15.txt")
    (tmp_path / "classInd15.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="text file"):
        read_class_index(tmp_path / "classInd15.txt")


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    (tmp_path / "index.txt").write_bytes("\ufeff1 Archery\r\n2 Tai Chi\r\n".encode())
    assert read_class_index(tmp_path / "index.txt") == ["Archery", "Tai Chi"]


def test_stem():
    assert stem("v_Archery_g01_c01.avi") == "Archery_g01_c01"
    assert stem("my video.final.mp4") == "my video.final"
