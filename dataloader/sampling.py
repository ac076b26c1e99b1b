"""Which frames of a video are looked at: pure functions of its length and of random numbers in [0, 1).

Indices are 1-based, as the file names are. n is the number of frames on disk, L the stack length and
S = max(n - L + 1, 1) the number of possible starts, the same for both streams, so that both look at the
same moments.
"""

import hashlib

import numpy as np

STACK_LENGTH = 10
SEGMENTS = 3
TEST_SAMPLES = 19


def num_starts(num_frames: int, length: int = STACK_LENGTH) -> int:
    """S = max(n - L + 1, 1)."""
    if num_frames < 1:
        raise ValueError(f"a video needs at least one frame, got {num_frames}")
    return max(num_frames - length + 1, 1)


def test_starts(num_frames: int, length: int = STACK_LENGTH, samples: int = TEST_SAMPLES) -> list[int]:
    """The test's starts 1 + floor(i * S / samples), i = 0 … samples - 1: evenly spread, non-decreasing."""
    starts = num_starts(num_frames, length)
    return [1 + i * starts // samples for i in range(samples)]


def segment_starts(num_frames: int, draws: np.ndarray, length: int = STACK_LENGTH) -> list[int]:
    """One start from each of K equal segments of 1..S (TSN, arXiv 1608.00859), by K uniform `draws` in [0, 1).

    Segment k lies between the fractions k/K and (k+1)/K of 1..S; with a single draw, the start is uniform in 1..S.
    """
    starts = num_starts(num_frames, length)
    return [min(1 + int((k + float(u)) * starts / len(draws)), starts) for k, u in enumerate(draws)]


def stack_indices(start: int, num_frames: int, length: int = STACK_LENGTH) -> list[int]:
    """Frames start, start + 1, …, start + length - 1; past the end the last frame is repeated."""
    return [min(start + k, num_frames) for k in range(length)]


def clips_for_testing(num_frames: int, length: int, samples: int = TEST_SAMPLES) -> tuple[list[int], np.ndarray]:
    """The frames that the test looks at, each once and in order, and which of them make up its clips.

    The clips are the `length` frames (1 for single images) from each of the `test_starts`; the second value is
    int64 (samples, length), positions in the first one.
    """
    clips = [stack_indices(start, num_frames, length) for start in test_starts(num_frames, samples=samples)]
    frames, index = np.unique(clips, return_inverse=True)
    return frames.tolist(), index.reshape(-1, length)


def random_state(seed: int, epoch: int, name: str = "") -> np.random.Generator:
    """Random numbers that depend on (seed, epoch, video name) only, whatever was resumed and however many workers."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{name}".encode("utf-8", "surrogateescape"), digest_size=16)
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "little")))
