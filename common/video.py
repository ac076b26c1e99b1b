"""Pictures of a video file, and their form on disk."""

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image

from common.cli import UserError
from common.images import scaled_size


def decode_frames(
    path: str | os.PathLike, every: int = 1, threads: int = 1, damage: list[str] | None = None
) -> Iterator[np.ndarray]:
    """Yield frames 1, 1 + every, … of a video's best video stream, uint8 RGB (H, W, 3), upright.

    Each decoded frame comes once, whatever its time stamp. The file's rotation or mirroring is applied, and pixels
    that are not square are made so by enlarging one side. `threads`: of the decoder.

    Packets that do not decode are skipped; if there are any, or if the video ends well before its header says, a
    line about it is appended to `damage`. Raises `UserError` with the reason (not the path) if nothing can be
    decoded, or less than half of a damaged video.
    """
    frames = packets = bad = 0
    end = 0.0
    try:
        # Absolute: FFmpeg would take "12:30.avi" for an address. Whitelist: a playlist shall not reach the net.
        with av.open(str(Path(path).absolute()), options={"protocol_whitelist": "file"}) as container:
            stream = _video_stream(container, threads)
            declared, is_avi = stream.frames, container.format.name == "avi"
            seconds = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
            aspect = float(stream.sample_aspect_ratio or 1)
            reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than its work
            for packet in container.demux(stream):
                packets += packet.size > 0
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    bad += 1
                    continue
                bad += packet.is_corrupt or any(frame.is_corrupt for frame in decoded)
                for frame in decoded:
                    frames += 1
                    if (frames - 1) % every == 0:
                        rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                        yield _upright(rgb, frame.side_data.get("DISPLAYMATRIX"), aspect)
    except av.FFmpegError as error:
        if frames == 0:
            raise UserError(f"cannot be read: {error.strerror}") from None
        bad += 1
    except ValueError as error:  # PyAV, of a pixel format that it cannot convert
        raise UserError(f"cannot be decoded: {error}") from None
    if frames == 0:
        raise UserError("no frame of it can be decoded")
    # AVI headers are right about the length; where the header gives none, time tells that a file was cut.
    expected = max(packets, declared)
    if bad or (is_avi and packets < declared - max(2, declared // 20)):
        if 2 * frames < expected:
            raise UserError(f"damaged: only {frames} of {expected} frames can be decoded")
        if damage is not None:
            damage.append(f"damaged: {frames} of {expected} frames decoded, {bad} with errors")
    elif end < 0.9 * seconds - 0.5 and damage is not None:
        damage.append(f"cut short: ends at {end:.1f} s of {seconds:.1f} s")


def frame_rate(path: str | os.PathLike) -> Fraction:
    """Frames per second of a video file; 25 where it tells nothing of use."""
    with av.open(str(Path(path).absolute()), options={"protocol_whitelist": "file"}) as container:
        stream = container.streams.best("video")
        rate = stream.average_rate or stream.guessed_rate
    return Fraction(rate).limit_denominator(1001) if rate and Fraction(1, 10) <= rate <= 240 else Fraction(25)


def _video_stream(container, threads: int):
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise UserError("no video stream in it")
    if stream.codec_context is None:
        raise UserError("no decoder for its video stream")
    stream.thread_type = "AUTO" if threads > 1 else "NONE"
    stream.codec_context.thread_count = threads
    return stream


def _upright(rgb: np.ndarray, matrix, aspect: float) -> np.ndarray:
    """The picture with square pixels (theirs are `aspect` wide), turned as the display matrix says."""
    height, width = rgb.shape[:2]
    if aspect != 1 and 0.25 <= aspect <= 4:
        size = (_round(width * aspect), height) if aspect > 1 else (width, _round(height / aspect))
        rgb = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
    if matrix is not None:
        # (x, y) goes to (a x + c y, b x + d y); other angles than quarter turns to the nearest of those
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
        right, down = a, d
        if abs(b) + abs(c) > abs(a) + abs(d):
            rgb, right, down = rgb.swapaxes(0, 1), c, b
        rgb = rgb[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    return np.ascontiguousarray(rgb)


def resize_short_side(rgb: np.ndarray, short_side: int = 256) -> np.ndarray:
    """Scale a uint8 picture (H, W, 3) to that short side, the long one in proportion, to the nearest pixel."""
    height, width = scaled_size(rgb.shape[:2], short_side)
    if (height, width) == rgb.shape[:2]:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0))


def encode_jpeg(rgb: np.ndarray, quality: int = 95, comment: str = "") -> bytes:
    """JPEG file (4:2:0) of a uint8 RGB picture (H, W, 3); raises `UserError` if a side is above 65,500."""
    if max(rgb.shape[:2]) > 65500:
        raise UserError(f"frames of {rgb.shape[1]}x{rgb.shape[0]} are too long for JPEG")
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling="4:2:0", comment=comment.encode())
    return buffer.getvalue()


def _round(value: float) -> int:
    return max(1, int(value + 0.5))
