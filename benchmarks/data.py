"""Synthetic videos on disk that cost what real ones cost: frames that compress alike, pose images, keypoints."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pose import standing_people
from common.frames import FRAME_NAME
from dataloader.names import Video
from pose.draw import draw_people, save_pose_image
from pose.keypoints import FILE_NAME, save_keypoints

FRAME_SIZE = (256, 340)
# Falls of the spectrum with frequency: photographs have about 1 in amplitude, video that was compressed
# before, as UCF101's, more. A JPEG of quality 95 is then 29 kB; real clips of that size have 25 to 27.
SPECTRUM = 1.65


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A cloudy picture with the spectrum of a photograph: uint8 (height, width, 3)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    amplitude = np.maximum(frequency, 1 / max(height, width)) ** -SPECTRUM
    planes = [
        np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape)), s=(height, width)) for _ in range(3)
    ]
    picture = np.stack([planes[0] + 0.3 * plane for plane in planes], axis=2)
    return ((picture - picture.mean()) / picture.std() * 45 + 120).clip(0, 255).astype(np.uint8)


def moving_people(count: int, frames: int, seed: int) -> np.ndarray:
    """`count` standing people that sway: float32 (frames, count, 18, 3)."""
    rng = np.random.default_rng(seed)
    phase = np.arange(frames)[:, None, None, None] / 8
    sway = 0.02 * np.sin(phase + rng.uniform(0, 6, (1, count, 18, 2)))
    people = np.repeat(standing_people(count, seed)[None], frames, axis=0)
    people[..., :2] += sway
    return people


def write_videos(root: Path, videos: int, frames: int, classes: int = 15, seed: int = 0) -> list[Video]:
    """Write `root/frames` and `root/pose_flow` of synthetic videos of `frames` frames each.

    Frames are windows that wander over a texture; pose images show one person, in every third video two.
    Returns the videos, for `index_frames` and `load_all_keypoints`.
    """
    height, width = FRAME_SIZE
    listed = []
    for number in range(videos):
        name = f"Made_g{number + 1:04d}_c01"
        listed.append(Video(name, number % classes, f"class{number % classes}", f"Made/v_{name}.avi"))
        rgb, pose = root / "frames" / f"v_{name}", root / "pose_flow" / name
        rgb.mkdir(parents=True)
        pose.mkdir(parents=True)
        scene = texture(np.random.default_rng((seed, number)), height + 40, width + 60)
        people = moving_people(1 + (number % 3 == 1), frames, seed + number)
        for i in range(frames):
            top, left = round(20 + 20 * np.sin(i / 9)), round(30 + 30 * np.cos(i / 13))
            window = Image.fromarray(scene[top : top + height, left : left + width])
            window.save(rgb / FRAME_NAME.format(i + 1), quality=95)
            save_pose_image(pose / FRAME_NAME.format(i + 1), draw_people(people[i], FRAME_SIZE))
        each = np.repeat(np.arange(1, frames + 1, dtype=np.int32), people.shape[1])
        save_keypoints(pose / FILE_NAME, people.reshape(-1, 18, 3), each, frames, FRAME_SIZE)
    return listed


def mean_bytes(folder: Path) -> float:
    """Mean size of the JPEGs below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
    return sum(sizes) / len(sizes)
