"""Files as they get damaged: empty, cut off, of another kind. The scripts name them in one line, and run none."""

import io
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from common.cli import UserError
from dataloader.frame_index import index_frames
from dataloader.split_train_test_video import read_split
from fusion.scores import load_scores
from network import read_weights
from pose.keypoints import FILE_NAME, save_keypoints
from tests.helpers import assert_error, call_main, train_script
from utils import load_checkpoint


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, weights=np.ones(3))
    return file.getvalue()


FAULTS = {
    "empty": lambda sound: b"",
    "cut": lambda sound: sound[: len(sound) // 2],
    "page": lambda sound: b"<!DOCTYPE html>\n<title>404 Not Found</title>\n",  # what a failed download leaves
    "other": lambda sound: npz(),
}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))


@faults
def test_checkpoints(fault, trained, tiny, tmp_path):
    path = tmp_path / "broken.pth.tar"
    path.write_bytes(fault((trained("spatial") / "checkpoint.pth.tar").read_bytes()))
    for option in ("--resume", "--weights"):
        assert_error(train_script("spatial", tiny, tmp_path / "record", option, path), str(path))
    (tmp_path / "a.avi").touch()
    assert_error(call_main("predict", tmp_path / "a.avi", "--spatial", path), str(path))


def test_files_that_are_no_checkpoints_are_called_what_they_are(tmp_path):
    path, checkpoint = tmp_path / "net.pth", {"state_dict": {"weight": torch.zeros(9)}}
    torch.save(checkpoint, path)
    torch.save(checkpoint, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    for ending in ("zip", "tar", "gztar"):
        shutil.make_archive(str(tmp_path / ending), ending, tmp_path, "net.pth")
    pages = {"page": b"\n<html>404</html>", "lfs": b"version https://git-lfs.github.com/spec/v1\n"}
    pages |= {"cut": path.read_bytes()[:-9], "old_cut": (tmp_path / "old.pth").read_bytes()[:-9], "empty": b""}
    for name, content in pages.items():
        (tmp_path / name).write_bytes(content)
    for words, names in {
        "a web page": ["page"],
        "Git LFS": ["lfs"],
        "cut short": ["cut", "old_cut", "empty"],
        "unpacked checkpoint": ["unpacked", "unpacked/net", "unpacked/net/data.pkl"],
        "packed archive": ["zip.zip", "tar.tar", "gztar.tar.gz"],
    }.items():
        for name in names:
            with pytest.raises(UserError, match=f"{name}: is .*{words}"):
                load_checkpoint(tmp_path / name)


@faults
def test_safetensors(fault, tmp_path):
    save_file({"weight": torch.zeros(99)}, tmp_path / "net.safetensors")
    path = tmp_path / "broken.safetensors"
    path.write_bytes(fault((tmp_path / "net.safetensors").read_bytes()))
    with pytest.raises(UserError, match=str(path)):
        read_weights(path)


@faults
def test_images(fault, own_tiny, tmp_path):
    (video,) = (own_tiny / "frames").glob("*Diving_g03_c01")
    for path in video.iterdir():
        path.write_bytes(fault(path.read_bytes()))
    # The whole training list is one batch, so that nothing is computed before the fault is met.
    finished = train_script("spatial", own_tiny, tmp_path / "record", "--batch-size", 12)
    assert_error(finished, f"{video}/frame0000", "Diving_g03_c01", "--skip-broken")


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_skipped_on_demand(workers, own_tiny, trained, tmp_path):
    path = own_tiny / "frames" / "v_Diving_g01_c01" / "frame000001.jpg"
    path.write_bytes(path.read_bytes()[:400])
    arguments = ("--resume", trained("spatial") / "checkpoint.pth.tar", "--evaluate", "--workers", workers)
    assert_error(train_script("spatial", own_tiny, tmp_path, *arguments), str(path), "--skip-broken")
    finished = train_script("spatial", own_tiny, tmp_path, *arguments, "--skip-broken")
    assert finished.returncode == 0 and finished.stderr.count(str(path)) == 1, finished.stderr
    scores = (load_scores(folder / "spatial_video_preds.pickle") for folder in (tmp_path, trained("spatial")))
    assert set.symmetric_difference(*map(set, scores)) == {"Diving_g01_c01"}


def test_an_image_whose_header_claims_gigabytes(own_tiny, trained, tmp_path):
    path = own_tiny / "frames" / "v_Diving_g01_c01" / "frame000001.jpg"
    data = path.read_bytes()
    at = data.index(b"\xff\xc0") + 5  # height and width
    path.write_bytes(data[:at] + b"\xff\xf0\xff\xf0" + data[at + 4 :])
    arguments = ("--resume", trained("spatial") / "checkpoint.pth.tar", "--evaluate")
    assert_error(train_script("spatial", own_tiny, tmp_path, *arguments), str(path))


@faults
def test_keypoints(fault, own_tiny, tmp_path):
    for folder in (own_tiny / "pose_flow").iterdir():
        count = len(list(folder.iterdir()))
        people = np.full((count, 18, 3), 0.5, np.float32)
        save_keypoints(folder / FILE_NAME, people, np.arange(1, count + 1, dtype=np.int32), count, (40, 40))
    path = own_tiny / "pose_flow" / "TaiChi_g03_c01" / FILE_NAME
    path.write_bytes(fault(path.read_bytes()))
    arguments = ("motion_pose", own_tiny, tmp_path / "record", "--from-keypoints")
    assert_error(train_script(*arguments), str(path), "TaiChi_g03_c01")


@pytest.mark.parametrize("name", ["trainlist04.txt", "classInd15.txt"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe1\x00 \x00A\x00", b"name,label\nArchery,1\n"])
def test_lists(name, content, own_tiny, tmp_path):
    (own_tiny / "lists" / name).write_bytes(content)
    assert_error(train_script("spatial", own_tiny, tmp_path / "record"), name)


@faults
def test_score_pickles(fault, trained, tiny, tmp_path):
    path = tmp_path / "broken_video_preds.pickle"
    path.write_bytes(fault((trained("spatial") / "spatial_video_preds.pickle").read_bytes()))
    assert_error(call_main("average_fusion", path, "--ucf-list", tiny / "lists", "--out", tmp_path / "out"), str(path))


@pytest.mark.parametrize("content", [b'{"count": 1', b"[3]"])
def test_a_broken_record_counts_for_nothing(content, own_tiny):
    videos = read_split(own_tiny / "lists", "04", "classInd15.txt").test
    expected = index_frames(own_tiny / "frames", videos)
    (own_tiny / "frames" / "v_Archery_g01_c01" / "made.json").write_bytes(content)
    assert index_frames(own_tiny / "frames", videos) == expected


def test_a_gap_in_the_numbers_stops_the_run_before_it_starts(own_tiny, tmp_path):
    (own_tiny / "frames" / "v_TaiChi_g04_c01" / "frame000009.jpg").unlink()
    finished = train_script("spatial", own_tiny, tmp_path / "record")
    assert_error(finished, "frame000009.jpg is missing", "TaiChi_g04_c01")
    assert not (tmp_path / "record").exists()


def test_images_of_any_colour_and_size_are_taken_as_they_are(own_tiny, trained, tmp_path):
    for video in (own_tiny / "frames").iterdir():
        with Image.open(video / "frame000001.jpg") as image:
            for number, (mode, size) in enumerate((("L", (50, 70)), ("CMYK", (48, 36)), ("RGB", (33, 200))), 1):
                image.convert(mode).resize(size).save(video / f"frame{number:06d}.jpg")
    arguments = ("--resume", trained("spatial") / "checkpoint.pth.tar", "--evaluate")
    finished = train_script("spatial", own_tiny, tmp_path, *arguments)
    assert finished.returncode == 0 and finished.stderr == "", finished.stderr


# ---- files that would run code ----


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_no_file_runs_anything(own_tiny, tmp_path):
    canary = tmp_path / "canary"
    evil = Touch(canary)
    checkpoint = {"epoch": 1, "best_prec1": 0.0, "state_dict": {"conv1.weight": evil}}
    for name, zipped in (("new.pth.tar", True), ("old.pth.tar", False)):
        torch.save(checkpoint, tmp_path / name, _use_new_zipfile_serialization=zipped)
    (tmp_path / "plain.pth.tar").write_bytes(pickle.dumps(checkpoint))
    torch.load(tmp_path / "new.pth.tar", weights_only=False)
    assert canary.exists()
    canary.unlink()
    for name in ("new.pth.tar", "old.pth.tar", "plain.pth.tar"):
        for option in ("--resume", "--weights"):
            finished = train_script("spatial", own_tiny, tmp_path / "record", option, tmp_path / name)
            assert_error(finished, name)
    path = tmp_path / "spatial_video_preds.pickle"
    for vector in (evil, np.array([evil], object)):
        path.write_bytes(pickle.dumps({"A_g01_c01": np.ones(3, np.float32), "B_g01_c01": vector}))
        assert_error(call_main("average_fusion", path, "--ucf-list", own_tiny / "lists", "--out", tmp_path), str(path))
    arrays = {
        "keypoints": np.array([evil], object),
        "frame": np.ones(1, np.int32),
        "num_frames": 1,
        "frame_size": [9, 9],
    }
    for folder in (own_tiny / "pose_flow").iterdir():
        np.savez(folder / FILE_NAME, **arrays)
    finished = train_script("motion_pose", own_tiny, tmp_path / "record", "--from-keypoints")
    assert_error(finished, FILE_NAME, "not a valid keypoints file")
    assert not canary.exists()
