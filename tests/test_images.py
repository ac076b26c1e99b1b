import io
import multiprocessing
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import frames
from common.cli import UserError
from common.frames import FRAME_NAME, BrokenImage, Frames, decode_image, find_frames, list_frames
from common.records import RECORD, write_record
from dataloader.frame_index import IndexedVideo, index_frames
from dataloader.images import (
    crop_box,
    random_crop,
    random_zoom,
    read_frames,
    read_image,
    resize,
    to_input,
    transform_images,
)
from dataloader.motion_pose_dataloader import motion_sample
from dataloader.names import Video
from dataloader.sampling import random_state, segment_starts, stack_indices
from dataloader.sampling import test_starts as starts_of
from dataloader.spatial_dataloader import spatial_sample
from dataloader.video_dataset import Broken, EpochBatches, VideoDataset, collate, end_workers
from network import IMAGENET_MEAN, IMAGENET_STD
from tests.helpers import write_images


def encoded(image: Image.Image, kind="JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(width=60, height=40) -> Image.Image:
    ramp = np.add.outer(np.arange(height) * 2, np.arange(width)).astype(np.uint8)
    return Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], axis=2))


@pytest.fixture
def video(tmp_path) -> IndexedVideo:
    write_images(tmp_path / "v_A_g01_c01", 23, 0, (64, 48), 0)
    return IndexedVideo(Video("A_g01_c01", 0, "A", "A/v_A_g01_c01.avi"), Frames(str(tmp_path / "v_A_g01_c01"), 23))


def frame_of(video: IndexedVideo, number: int) -> torch.Tensor:
    return torch.from_numpy(next(read_frames(video.frames, [number])))


@pytest.fixture
def both(tmp_path):
    """Reads encoded bytes by Pillow alone and by the loaders' reader."""

    def read(data: bytes) -> tuple[np.ndarray, np.ndarray]:
        (tmp_path / "frame000007.jpg").write_bytes(data)
        return decode_image(data), read_image(tmp_path / "frame000007.jpg")

    return read


def test_jpegs_are_the_same_by_either_decoder(both, video):
    data = [
        encoded(picture(), quality=95),
        encoded(picture(33, 47), subsampling=0),
        encoded(picture(), progressive=True),
    ]
    data += [path.read_bytes() for path in Path(video.frames.folder).iterdir()]
    for one, other in map(both, data):
        assert one.dtype == other.dtype == np.uint8 and one.shape[2] == 3
        assert np.array_equal(one, other)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_any_colour_are_rgb(both, mode):
    data = encoded(picture().convert(mode))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    for decoded in both(data):
        assert decoded.shape == expected.shape
        assert np.abs(decoded - expected).max() <= 3


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[: len(d) // 2], lambda d: b"hello", lambda d: d[:3]])
def test_broken_images_are_named(tmp_path, damage):
    path = tmp_path / "frame000007.jpg"
    for data in (encoded(picture()), encoded(picture(), "PNG")):
        path.write_bytes(damage(data))
        for read in (frames.read_image, read_image):
            with pytest.raises(BrokenImage, match="frame000007"):
                read(path)
    with pytest.raises(BrokenImage, match="frame000008.jpg: No such file"):
        read_image(tmp_path / "frame000008.jpg")


def test_resize_equals_pillows_bilinear():
    image = torch.from_numpy(np.array(picture(340, 256)))
    expected = np.asarray(picture(340, 256).resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize(image, 224, 224).numpy().astype(int) - expected).max() <= 1
    assert resize(image, 256, 340) is image


def test_crop_is_the_window_of_the_scaled_image():
    image = torch.from_numpy(np.array(picture(340, 256)))
    assert torch.equal(random_crop(image, 224, (0.5, 0.25), square=False), image[16:240, 29:253])
    square = resize(image, 256, 256)
    assert torch.equal(random_crop(image, 224, (0.999, 0), square=True), square[32:, :224])
    half = resize(image, 128, 170)
    assert torch.equal(random_crop(image, 112, (0, 0), square=False), half[:112, :112])


def test_zoom_shows_the_whole_image_about_the_size_of_the_test():
    image = torch.from_numpy(np.array(picture(340, 256)))
    assert torch.equal(random_zoom(image, 100, (0.3, 0.9, 0.5)), resize(image, 100, 100))
    assert torch.equal(random_zoom(image, 100, (0.5, 0.999, 1)), resize(image, 120, 120)[10:110, 20:])
    small = random_zoom(image, 100, (0, 0.999, 0), fill=7)
    assert torch.equal(small[:83, 17:], resize(image, 83, 83))
    assert (small[83:] == 7).all() and (small[:, :17] == 7).all()
    stack = torch.stack([image, image.flip(0)])
    assert torch.equal(random_zoom(stack, 100, (0, 0.999, 0), fill=7)[0], small)


def test_a_box_is_cut_out_of_the_picture_and_black_beyond_it():
    image = np.array(picture(60, 40))
    ringed = np.pad(image, ((50, 50), (50, 50), (0, 0)))
    for x, y, side in ((30, 20, 16), (5, 38, 20), (30, 20, 90)):
        rows, columns = (slice(50 + c - side // 2, 50 + c + side // 2) for c in (y, x))
        assert np.array_equal(crop_box(image, np.array((x, y, side)) / 40), ringed[rows, columns])


def test_images_of_any_sizes_are_transformed_in_order():
    sizes = [(40, 60)] * 20 + [(30, 30)] + [(40, 60)] * 2
    pictures = [np.array(picture(width, height)) // (i + 1) for i, (height, width) in enumerate(sizes)]
    result = transform_images(iter(pictures), partial(resize, height=30, width=30))
    assert result.shape == (23, 30, 30, 3)
    for image, one in zip(pictures, result, strict=True):
        assert torch.equal(one, resize(torch.from_numpy(image), 30, 30))


@pytest.mark.parametrize("normalised", [True, False])
def test_to_input_equals_the_plain_computation(normalised):
    images = torch.randint(0, 256, (7, 32, 40, 3), dtype=torch.uint8)
    index = torch.tensor([[0, 1, 1], [6, 5, 2]])
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if normalised else (None, None)
    result = to_input(images, index, mean, std)
    assert result.shape == (2, 9, 32, 40) and result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    for clip, row in zip(result, index, strict=True):
        planes = images[row].permute(0, 3, 1, 2).float() / 255
        if normalised:
            planes = (planes - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        assert torch.allclose(clip, planes.flatten(0, 1), atol=1e-5)


def test_spatial_test_sample_is_the_19_frames(video):
    sample = spatial_sample(video, None, 32)
    assert sample.index.shape == (19, 1)
    for (position,), start in zip(sample.index.tolist(), starts_of(23), strict=True):
        assert torch.equal(sample.images[position], resize(frame_of(video, start), 32, 32))


def test_motion_test_sample_is_the_19_stacks_and_reads_each_image_once(video):
    sample = motion_sample(video, None, 48)
    assert sample.index.shape == (19, 10) and len(sample.images) == 23
    for row, start in zip(sample.index.tolist(), starts_of(23), strict=True):
        for position, frame in zip(row, stack_indices(start, 23), strict=True):
            assert torch.equal(sample.images[position], resize(frame_of(video, frame), 48, 48))


def test_training_samples_are_crops_and_half_of_the_spatial_ones_are_flipped(video):
    flips = 0
    for number in range(30):
        draws = random_state(0, number, "x").random(6)
        sample = spatial_sample(video, random_state(0, number, "x"), 32)
        assert sample.index.tolist() == [[0], [1], [2]]
        for image, frame in zip(sample.images, segment_starts(23, draws[:3]), strict=True):
            crop = random_crop(frame_of(video, frame), 32, draws[3:5], square=False)
            assert torch.equal(image, crop.flip(1) if draws[5] < 0.5 else crop)
        flips += draws[5] < 0.5
        draws = random_state(0, number, "x").random(3)
        stack = motion_sample(video, random_state(0, number, "x"), 32)
        first = frame_of(video, segment_starts(23, draws[:1])[0])
        assert torch.equal(stack.images[0], random_crop(first, 32, draws[1:], square=True))
    assert 5 <= flips <= 25


def test_images_of_differing_size_within_a_video(video, tmp_path):
    Image.new("RGB", (30, 90)).save(tmp_path / "v_A_g01_c01" / "frame000009.jpg")
    for sample in (spatial_sample, motion_sample):
        assert sample(video, None, 32).images.shape[1:] == (32, 32, 3)
        assert sample(video, random_state(0, 0, "y"), 32).images.shape[1:] == (32, 32, 3)


def test_broken_image_becomes_an_item_that_names_it(video, tmp_path):
    (tmp_path / "v_A_g01_c01" / "frame000003.jpg").write_bytes(b"")
    position, broken = VideoDataset([video], lambda *a: motion_sample(*a, image_size=32))[0]
    assert isinstance(broken, Broken) and broken.name == "A_g01_c01" and "frame000003.jpg" in broken.reason
    batch = collate([(0, broken)])
    assert batch.images is None and batch.broken == [broken]


def test_collate_offsets_the_index(video):
    sample = motion_sample(video, None, 32)
    batch = collate([(4, sample), (1, Broken("b", "why")), (2, sample)])
    assert batch.positions.tolist() == [4, 2]
    assert torch.equal(batch.images[batch.index[19:]], sample.images[sample.index])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_every_batch(world):
    shares = [EpochBatches(11, 4, 0, rank, world) for rank in range(world)]
    batches = list(EpochBatches(11, 4, 0))
    for number, parts in enumerate(zip(*shares, strict=True)):
        merged = sorted({key for part in parts for key in part})
        assert merged == sorted(batches[number])
        total = sum(map(len, parts))
        assert total == len(batches[number]) * (world if len(batches[number]) < world else 1)


def test_workers_end_where_there_is_no_sigchld(monkeypatch):
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    worker.start()
    monkeypatch.delattr(signal, "SIGCHLD", raising=False)  # as on Windows
    try:
        end_workers()
        assert not worker.is_alive()
    finally:
        worker.kill()


def test_epochs_are_shuffled_by_seed_and_epoch():
    batches = EpochBatches(20, 20, 1)
    first = [position for _, position in next(iter(batches))]
    batches.epoch = 1
    second = [position for _, position in next(iter(batches))]
    assert sorted(first) == sorted(second) == list(range(20)) and first != second


def test_frame_index_counts_on_disk_and_follows_changes(tmp_path):
    root = tmp_path / "frames"
    write_images(root / "v_A_g01_c01", 3, 0, (8, 8), 0)
    write_images(root / "A_g01_c02", 4, 0, (8, 8), 0)
    write_images(root / "A" / "A_g02_c01", 5, 0, (8, 8), 0)
    names = ("A_g01_c01", "A_g01_c02", "A_g02_c01", "A_g03_c01")
    videos = [Video(name, 0, "A", f"A/v_{name}.avi") for name in names]
    for _ in range(2):  # the second time from the cache, where there is one
        good, bad = index_frames(root, videos)
        assert [video.frames.num_frames for video in good] == [3, 4, 5]
        assert len(bad) == 1 and "A_g03_c01" in bad[0][1]
    (root / "v_A_g01_c01" / "frame000003.jpg").unlink()
    (root / "A_g01_c02" / "frame000002.jpg").unlink()
    for path in (root / "A" / "A_g02_c01").iterdir():
        path.unlink()
    good, bad = index_frames(root, videos)
    assert [video.frames.num_frames for video in good] == [2]
    reasons = " ".join(reason for _, reason in bad)
    assert "frame000002.jpg is missing" in reasons and "no frames" in reasons


def test_a_record_tells_the_count_while_nothing_changes(tmp_path, monkeypatch):
    folder, videos = tmp_path / "frames/v_A_g01_c01", [Video("A_g01_c01", 0, "A", "A/v_A_g01_c01.avi")]
    write_images(folder, 3, 0, (8, 8), 0)
    write_record(folder, {"count": 3})
    with monkeypatch.context() as patch:
        patch.setattr("dataloader.frame_index.find_frames", lambda folder: pytest.fail("listed"))
        assert index_frames(tmp_path / "frames", videos)[0][0].frames.num_frames == 3
    (folder / "frame000003.jpg").unlink()
    os.utime(folder / RECORD, (0, 0))
    assert index_frames(tmp_path / "frames", videos)[0][0].frames.num_frames == 2
    (folder / RECORD).write_text('{"count"')
    assert index_frames(tmp_path / "frames", videos)[0][0].frames.num_frames == 2


@pytest.mark.parametrize(
    "name", ["img_{:05d}.jpg", "image_{:05d}.jpg", "{}.jpg", "{:04d}.JPG", "frame{:06d}.png", "v{{1}} {:03d}.jpeg"]
)
@pytest.mark.parametrize("first", [0, 1])
def test_one_series_of_images_is_read_as_other_tools_number_it(tmp_path, name, first):
    write_images(tmp_path / "a", 12, 0, (8, 8), 0)
    expected = [read_image(path) for path in list_frames(tmp_path / "a")]
    (tmp_path / "a/notes.txt").touch()
    for number in range(1, 13) if first == 0 else range(12, 0, -1):
        (tmp_path / f"a/frame{number:06d}.jpg").rename(tmp_path / "a" / name.format(number + first - 1))
    (item,), bad = index_frames(tmp_path, [Video("a", 0, "A", "A/a.avi")])
    assert not bad and item.frames.num_frames == 12
    assert all(map(np.array_equal, read_frames(item.frames, range(1, 13)), expected))
    (tmp_path / "a" / name.format(5)).unlink()
    assert f"{name.format(5)} is missing" in index_frames(tmp_path, [Video("a", 0, "A", "A/a.avi")])[1][0][1]


def test_several_series_are_refused_with_their_names(tmp_path):
    write_images(tmp_path / "a", 3, 0, (8, 8), 0)
    for number in (1, 2, 3):
        for name in ("img", "flow_x"):
            shutil.copy(tmp_path / f"a/frame{number:06d}.jpg", tmp_path / f"a/{name}_{number:05d}.jpg")
    assert find_frames(tmp_path / "a").name == FRAME_NAME  # our own come first
    for number in (1, 2, 3):
        (tmp_path / f"a/frame{number:06d}.jpg").unlink()
    with pytest.raises(UserError, match=r"several series of images \(flow_x_00001.jpg, img_00001.jpg"):
        find_frames(tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        path.rename(path.with_suffix(".txt"))
    assert "but flow_x_00001.txt" in index_frames(tmp_path, [Video("a", 0, "A", "A/a.avi")])[1][0][1]


def test_turned_and_16_bit_images(both):
    """By either decoder: EXIF's quarter turn, PNGs under a JPEG's name."""
    for decoded in both(encoded(picture(), "PNG")):
        assert np.array_equal(decoded, np.asarray(picture()))
    exif = Image.Exif()
    exif[274] = 6
    turned = np.rot90(np.asarray(Image.open(io.BytesIO(encoded(picture())))), -1)
    for read in both(encoded(picture(), exif=exif)):
        assert read.shape == turned.shape and abs(read.astype(int) - turned).max() <= 4
    deep = Image.fromarray(np.arange(60 * 40, dtype=np.uint16).reshape(40, 60) * 27)
    for read in both(encoded(deep, "PNG")):
        assert np.array_equal(read[..., 0], np.asarray(deep) // 256)


def test_frame_index_of_no_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        index_frames(tmp_path / "nowhere", [])
    with pytest.raises(UserError, match="empty"):
        index_frames(tmp_path, [])
