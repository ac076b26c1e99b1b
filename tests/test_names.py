"""What videos are called and where they lie: the steps from videos to scores agree with each other."""

import unicodedata
from argparse import Namespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cli import UserError
from dataloader.frame_index import find_folders
from dataloader.names import Video, find_videos, listed_names, pose_name, stem, unique_names
from dataloader.split_train_test_video import read_entries
from predict import find_keypoints
from process_pose import select_videos

CLASSES = ["Run", "run up", "Übung 2.0"]
PARTS = st.sampled_from(["v_", "Run", "a", "A", "é", "_g01_c01", "1", " ", ".", "-x"])
STEMS = (
    st.lists(PARTS, min_size=1, max_size=4)
    .map("".join)
    .filter(lambda base: base == base.strip() and base.removeprefix("v_"))
    .filter(lambda base: base.removeprefix("v_")[0] != "." and not base.startswith("v_v_"))
)
FORMS = st.sampled_from(["NFC", "NFD"])  # of accents on disk: some systems store them as separate letters


@settings(max_examples=25, deadline=None)
@given(files=st.sets(st.tuples(st.sampled_from(CLASSES), STEMS), min_size=1, max_size=8), form=FORMS)
def test_every_step_finds_the_folder_that_the_step_before_wrote(tmp_path_factory, files, form):
    if len({(name, stem(base + ".avi")) for name, base in files}) < len(files):
        return  # refused: two videos of one class and name
    root = tmp_path_factory.mktemp("names")
    videos = {(name, base): root / "videos" / name / f"{base}.avi" for name, base in files}
    try:
        for path in videos.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        folders = find_videos(root / "videos")
    except UserError:
        return  # refused: a video called like a class
    assert sorted(folders.values()) == sorted(videos.values())
    lines = [f"{name}/{base}.avi {CLASSES.index(name) + 1}" for name, base in files]
    (root / "list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = {}
    for folder, path in folders.items():
        folder = unicodedata.normalize(form, folder)
        (root / "frames" / folder).mkdir(parents=True)
        (root / "frames" / folder / "frame000001.jpg").touch()
        made[path] = folder

    entries = read_entries(root / "list.txt")
    listed = unique_names([Video(stem(path), CLASSES.index(name), name, path) for _, name, path in entries])
    for video, folder in find_folders(root / "frames", listed):
        assert folder == made[root / "videos" / video.path]
    options = {"from_keypoints": False, "videos": [root / "list.txt"], "shard": None}
    selected, failures = select_videos(Namespace(videos_in=None, frames=root / "frames", out=root / "poses", **options))
    assert not failures
    assert {str(video.frames.relative_to(root / "frames")) for video in selected} == set(made.values())
    for video in selected:
        video.poses.mkdir(parents=True)
        (video.poses / "keypoints.npz").touch()
    for path, folder in made.items():
        assert find_keypoints(root / "poses", path) == root / "poses" / pose_name(folder) / "keypoints.npz"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("Archery/v_A_g01_c01.avi 1", "Archery/v_A_g01_c01.avi"),
        ("Run/clip 3.avi", "Run/clip 3.avi"),
        ("./Run//clip 3.v1.mp4  12", "Run/clip 3.v1.mp4"),
        ("v_Run_g01_c01/", "v_Run_g01_c01"),
        ("Run/a.mp4 120 0\nRun/b 2.AVI 33 0", "Run/a.mp4\nRun/b 2.AVI"),  # frames and label, as TSN
        ("/x/Run/a 120 0\n/x/Run/b 99 0\n/x/Hop/a.v1 120 1", "/x/Run/a\n/x/Run/b\n/x/Hop/a.v1"),
        ("Run/a 1\nHop/b.v1 2\nRun/c 1\nRun/a 1", "Run/a\nHop/b.v1\nRun/c\nRun/a"),
        ("Run/clip 3\nRun/clip 4", "Run/clip 3\nRun/clip 4"),  # names
        ("Run/clip 3 1\nRun/clip 4 1", "Run/clip 3\nRun/clip 4"),
    ],
)
def test_numbers_behind_the_videos_of_a_list(lines, expected, tmp_path):
    (tmp_path / "list.txt").write_text(lines)
    assert [entry.path for entry in read_entries(tmp_path / "list.txt")] == expected.split("\n")


def test_scores_under_any_spelling_belong_to_the_listed_video():
    videos = [
        Video("HandStandPushups_g01_c01", 0, "HandstandPushups", "HandstandPushups/v_HandStandPushups_g01_c01.avi"),
        Video("Run/twin", 1, "Run", "Run/twin.avi"),
        Video("Hop/twin", 2, "Hop", "Hop/twin.avi"),
        Video("x", 1, "Run", "Run/x.avi"),
        Video("X", 1, "Run", "Run/X.avi"),
    ]
    for spelling, name in {
        "v_HandstandPushups_g01_c01": "HandStandPushups_g01_c01",
        "HandstandPushups/v_HandStandPushups_g01_c01": "HandStandPushups_g01_c01",
        "Run/v_twin": "Run/twin",
        "twin": None,  # of which class?
        "X": "X",  # exactly one of the two that differ by case
        "v_X": None,
        "y": None,
    }.items():
        assert listed_names([spelling], videos) == {spelling: name}
