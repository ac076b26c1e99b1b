"""extract_flow.py: known motions, the form on disk, resuming, kills."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import optical_flow as raft

cv2 = pytest.importorskip("cv2")

from common import atomic  # noqa: E402
from common.cli import UserError  # noqa: E402
from common.optical_flow import encode_flow, flow_images, flow_method  # noqa: E402
from common.records import RECORD, FrameSettings, root_record, settings_of, write_record  # noqa: E402
from dataloader.images import read_grey  # noqa: E402
from tests.helpers import assert_error, call_main, decode_flow  # noqa: E402
from tests.test_extract_frames import make_video, tree  # noqa: E402

cv2.setNumThreads(1)  # a process that is forked while another thread of OpenCV holds a lock would wait for ever
SIZE = (160, 200)  # height, width
MARGIN = 30
CENTRE = (MARGIN + SIZE[1] / 2, MARGIN + SIZE[0] / 2)
MOTIONS = {
    "shift": np.array([[1, 0, 3], [0, 1, -2]], float),
    "zoom": cv2.getRotationMatrix2D(CENTRE, 0, 1.03),
    "turn": cv2.getRotationMatrix2D(CENTRE, 2, 1),
}


def texture(seed=0) -> np.ndarray:
    """A picture with structure of all sizes, uint8 RGB, larger than `SIZE` by a margin."""
    generator = np.random.default_rng(seed)
    shape = SIZE[0] + 2 * MARGIN, SIZE[1] + 2 * MARGIN
    layers = (
        cv2.resize(generator.random((shape[0] // s + 1, shape[1] // s + 1)), shape[::-1], interpolation=cv2.INTER_CUBIC)
        * s**0.5
        for s in (4, 8, 16, 32)
    )
    grey = sum(layers)
    return np.repeat(((grey - grey.min()) / np.ptp(grey) * 255).astype(np.uint8)[..., None], 3, 2)


def moved(times: int, motion: np.ndarray) -> np.ndarray:
    picture = texture()
    for _ in range(times):
        picture = cv2.warpAffine(picture, motion, picture.shape[1::-1], flags=cv2.INTER_CUBIC)
    return np.ascontiguousarray(picture[MARGIN:-MARGIN, MARGIN:-MARGIN])


def true_flow(motion: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + MARGIN
    return np.stack([x, y, np.ones_like(x)], 2) @ motion.T - np.stack([x, y], 2)


def write_frames(folder, pictures):
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures, 1):
        Image.fromarray(picture).save(folder / f"frame{number:06d}.jpg", quality=95)


def extract(*arguments, workers=0):
    finished = call_main("extract_flow", *arguments, "--workers", workers)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


@pytest.fixture
def frames(tmp_path):
    """Two videos: one that moves by (3, -2) pixels a frame, and one of a class, of a single frame."""
    write_frames(tmp_path / "frames" / "v_shift", [moved(i, MOTIONS["shift"]) for i in range(4)])
    write_frames(tmp_path / "frames" / "Class" / "v_one", [moved(0, MOTIONS["shift"])])
    return tmp_path / "frames"


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_known_motion_comes_back(motion):
    images = list(flow_images([moved(i, MOTIONS[motion]) for i in range(2)], flow_method("dis")))
    error = np.linalg.norm(decode_flow(images[0]) - true_flow(MOTIONS[motion]), axis=2)
    assert error.mean() < 0.5
    assert np.linalg.norm(true_flow(MOTIONS[motion]), axis=2).mean() > 1.5  # so that 0 would not pass
    assert len(images) == 2 and np.array_equal(*images)  # the last repeats the one before


def test_numbers_become_greys():
    assert encode_flow(np.array([-25, -20, 0, 20, 30, 10])).tolist() == [0, 0, 128, 255, 255, 191]
    flow = np.random.default_rng(0).uniform(-20, 20, 10000)
    assert np.abs(decode_flow(encode_flow(flow)) - flow).max() <= 20 / 255 + 1e-5


def test_files_are_what_the_method_computes(frames, tmp_path):
    extract(frames, tmp_path / "flow")
    u, v = (
        np.stack([read_grey(tmp_path / f"flow/{part}/v_shift/frame{n:06d}.jpg") for n in range(1, 5)]) for part in "uv"
    )
    assert u.shape == (4, *SIZE) and len(os.listdir(tmp_path / "flow/u/v_shift")) == 5
    assert np.abs(decode_flow(u) - 3).mean() < 0.5 and np.abs(decode_flow(v) + 2).mean() < 0.5
    read = [np.array(Image.open(frames / f"v_shift/frame{n:06d}.jpg")) for n in (1, 2)]
    expected = encode_flow(
        cv2.DISOpticalFlow_create(2).calc(*(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in read), None)
    )
    assert np.abs(np.stack([u[0], v[0]], 2).astype(int) - expected).mean() < 1  # JPEG
    assert (read_grey(tmp_path / "flow/v/Class/v_one/frame000001.jpg") == 128).all()
    assert Image.open(tmp_path / "flow/u/v_shift/frame000003.jpg").mode == "L"


def test_flow_of_videos_is_that_of_their_frames(tmp_path):
    make_video(tmp_path / "videos/A/a.avi", pictures=[moved(i, MOTIONS["turn"]) for i in range(5)])
    small = ("--every", 2, "--short-side", 80)
    assert call_main("extract_frames", tmp_path / "videos", tmp_path / "frames", *small).returncode == 0
    extract(tmp_path / "frames", tmp_path / "flow")
    extract(tmp_path / "videos", tmp_path / "direct", *small, workers=2)
    assert tree(tmp_path / "flow") == tree(tmp_path / "direct")
    assert sorted(os.listdir(tmp_path / "flow/u/a"))[3:] == [RECORD]
    assert settings_of(root_record(tmp_path / "flow")) == FrameSettings(2, None, 80)


def test_a_second_run_does_what_is_missing(frames, tmp_path):
    flow = tmp_path / "flow"
    assert "2 done (5 frames" in extract(frames, flow).stdout
    whole = tree(flow)
    assert "0 done" in extract(frames, flow).stdout
    for lost in ("u/v_shift/frame000001.jpg", "u/v_shift/frame000003.jpg", "v/v_shift/frame000004.jpg"):
        (flow / lost).unlink()
        assert "1 done" in extract(frames, flow).stdout and tree(flow) == whole
    write_frames(tmp_path / "more", [moved(0, MOTIONS["shift"])])
    (tmp_path / "more/frame000001.jpg").rename(frames / "v_shift/frame000005.jpg")
    assert "1 done (5 frames" in extract(frames, flow).stdout
    parts = tmp_path / "parts"
    for part in range(3):
        extract(frames, parts, "--shard", f"{part}/3")
    extract(frames, tmp_path / "again")
    assert tree(parts) == tree(tmp_path / "again")
    write_record(flow / "u/v_shift", {"flow": {"method": "raft"}})
    write_record(flow / "u/Class/v_one", {"flow": {"method": "raft"}})
    assert_error(call_main("extract_flow", frames, flow), str(flow), "method = raft, now it is dis")


def test_broken_videos_are_named_and_the_others_done(frames, tmp_path):
    (frames / "v_shift/frame000002.jpg").write_bytes(b"")
    (frames / "v_empty").mkdir()
    Image.new("RGB", (50, 50)).save(frames / "Class/v_one/frame000002.jpg")
    write_frames(frames / "v_good", [moved(i, MOTIONS["zoom"]) for i in range(2)])
    finished = call_main("extract_flow", frames, tmp_path / "flow", "--workers", 2)
    assert finished.returncode == 1
    sizes = "50x50 pixels, but the video's first frame has 200x160"
    for words in ("frame000002.jpg: the file is empty", "v_empty: no frames in it", sizes):
        assert words in finished.stderr
    assert sorted(path.name for path in (tmp_path / "flow").glob("[uv]/*")) == ["v_good", "v_good"]


def test_a_kill_between_the_renames_of_u_and_v(frames, tmp_path, monkeypatch):
    real, renamed = atomic.replace_folder, []

    def killed_at_the_second(new, path):
        renamed.append(path)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        real(new, path)

    monkeypatch.setattr(atomic, "replace_folder", killed_at_the_second)
    assert call_main("extract_flow", frames, tmp_path / "flow", "--workers", 0).returncode == 130
    assert renamed[0].parts[-3] == "v" or renamed[0].parts[-2] == "v"
    monkeypatch.undo()
    extract(frames, tmp_path / "flow")
    extract(frames, tmp_path / "whole")
    assert tree(tmp_path / "flow") == tree(tmp_path / "whole")


def test_raft(tmp_path):
    torch.manual_seed(0)
    torch.save(raft.raft_large(weights=None).state_dict(), tmp_path / "raft.pth")
    method = flow_method("raft", torch.device("cpu"), tmp_path / "raft.pth")
    frames = [moved(i, MOTIONS["shift"])[:100, :131] for i in range(3)]
    flows = list(method(frames[:2], frames[1:]))
    assert [flow.shape for flow in flows] == [(100, 131, 2)] * 2 and np.isfinite(flows).all()
    assert np.allclose(next(iter(method(frames[1:2], frames[2:]))), flows[1], atol=1e-3)  # whatever the batch
    torch.save({}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad\.pth: holds no weights of torchvision's raft_large"):
        flow_method("raft", torch.device("cpu"), tmp_path / "bad.pth")


def test_mistakes_are_one_line(frames, tmp_path):
    assert_error(call_main("extract_flow", tmp_path / "no", tmp_path / "flow"), "no such file or folder")
    assert_error(call_main("extract_flow", frames, frames), "this is the folder of frames")
