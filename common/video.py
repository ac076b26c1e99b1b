"""Pictures of a video file, and their form on disk."""

import io
import math
import os
from collections.abc import Generator, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from common.atomic import atomic_write
from common.cli import UserError
from common.images import nearest_pixel, scaled_size

MAX_PAUSE = 10  # seconds between two frames; a longer one is a jump of the clock, as where recordings were joined


def decode_frames(
    path: str | os.PathLike, every: int = 1, threads: int = 1, damage: list[str] | None = None, fps: float | None = None
) -> Generator[np.ndarray, None, None]:
    """Yield frames 1, 1 + every, … of a video's best video stream, uint8 RGB (H, W, 3), upright.

    Each decoded frame comes once, whatever its time stamp; with `fps` they are resampled by time stamps instead: for
    0, 1/fps, 2/fps, … seconds after the first frame the one that is nearest in time. The file's rotation or mirroring
    is applied, and pixels that are not square are made so by enlarging one side. `threads`: of the decoder.

    Packets that do not decode are skipped; if there are any, or if the video ends well before its header says, a
    line about it is appended to `damage`. Raises `UserError` with the reason (not the path) if nothing can be
    decoded, or less than half of a damaged video.
    """
    frames = packets = bad = 0
    end = 0.0
    try:
        with open_video(path) as container:
            stream = video_stream(container, threads)
            declared, is_avi = stream.frames, container.format.name == "avi"
            seconds = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
            aspect = float(stream.sample_aspect_ratio or 1)
            clock = _Clock(fps, stream.average_rate or stream.guessed_rate) if fps else None
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
                    chosen = clock.pick(frame) if clock else [frame] * ((frames - 1) % every == 0)
                    yield from (to_rgb(picture, reformatter, aspect) for picture in chosen)
    except av.FFmpegError as error:
        if frames == 0:
            raise UserError(f"cannot be read: {error.strerror}") from None
        bad += 1
    except ValueError as error:  # PyAV, of a pixel format that it cannot convert
        raise UserError(f"cannot be decoded: {error}") from None
    if frames == 0:
        raise UserError("no frame of it can be decoded")
    if clock:
        yield from (to_rgb(picture, reformatter, aspect) for picture in clock.rest())
    # AVI headers are right about the length; where the header gives none, time tells that a file was cut.
    expected = max(packets, declared)
    if bad or (is_avi and packets < declared - max(2, declared // 20)):
        if 2 * frames < expected:
            raise UserError(f"damaged: only {frames} of {expected} frames can be decoded")
        if damage is not None:
            damage.append(f"damaged: {frames} of {expected} frames decoded, {bad} with errors")
    elif end < 0.9 * seconds - 0.5 and damage is not None:
        damage.append(f"cut short: ends at {end:.1f} s of {seconds:.1f} s")


def open_video(path: str | os.PathLike) -> InputContainer:
    """A video file as PyAV's container; raises `av.FFmpegError`."""
    # Absolute: FFmpeg would take "12:30.avi" for an address. Whitelist: a playlist shall not reach the net.
    return av.open(str(Path(path).absolute()), options={"protocol_whitelist": "file"})


def frame_rate(path: str | os.PathLike) -> Fraction:
    """Frames per second of a video file; 25 where it tells nothing of use."""
    with open_video(path) as container:
        stream = container.streams.best("video")
        rate = stream.average_rate or stream.guessed_rate
    return Fraction(rate).limit_denominator(1001) if rate and Fraction(1, 10) <= rate <= 240 else Fraction(25)


def duration(path: str | os.PathLike) -> float | None:
    """Seconds that a video file says it lasts; None if it does not say."""
    with open_video(path) as container:
        return container.duration / av.time_base if container.duration and container.duration > 0 else None


def measure_duration(path: str | os.PathLike) -> float:
    """Seconds that a video file lasts: as it says, else, as with what browsers record, by its last packet's time.

    Raises `UserError` with the reason (not the path) if it cannot be read.
    """
    try:
        if seconds := duration(path):
            return seconds
        with open_video(path) as container:
            packets = container.demux(video_stream(container, 1))
            return max(
                (float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None), default=0
            )
    except av.FFmpegError as error:
        raise UserError(f"cannot be read: {error.strerror}") from None


def video_stream(container: InputContainer, threads: int) -> VideoStream:
    """A container's best video stream, to be decoded by so many threads; raises `UserError` if there is none."""
    stream = cast(VideoStream, container.streams.best("video"))
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise UserError("no video stream in it")
    if stream.codec_context is None:
        raise UserError("no decoder for its video stream")
    stream.thread_type = "AUTO" if threads > 1 else "NONE"
    stream.codec_context.thread_count = threads
    return stream


class _Clock:
    """Chooses frames, given one by one, that are nearest to 0, 1/fps, 2/fps, … seconds after the first."""

    def __init__(self, fps: float, rate: Fraction | None):
        self.fps, self.step = Fraction(str(fps)), 1 / Fraction(rate or 25)
        self.frame: av.VideoFrame | None = None
        self.stamp: Fraction | None = None
        self.time, self.count = Fraction(0), 0

    def pick(self, frame: av.VideoFrame) -> list:
        """Frames that are chosen now that `frame` follows: none, or the one before it, perhaps several times."""
        stamp, chosen = None if frame.pts is None else frame.pts * frame.time_base, []
        if self.frame is not None:
            passed = stamp - self.stamp if None not in (stamp, self.stamp) else self.step
            self.step = passed = passed if 0 < passed <= MAX_PAUSE else self.step
            chosen = self._until(self.time + passed / 2)
            self.time += passed
        self.frame, self.stamp = frame, stamp
        return chosen

    def rest(self) -> list:
        """The last frame, as often as it is chosen."""
        return self._until(self.time + self.step / 2)

    def _until(self, end: Fraction) -> list:
        first, self.count = self.count, max(math.ceil(end * self.fps), self.count)
        return [self.frame] * (self.count - first)


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, aspect: float) -> np.ndarray:
    """A decoded frame as uint8 RGB (H, W, 3), upright; its pixels, `aspect` times as wide as high, made square."""
    rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return _upright(rgb, frame.side_data.get("DISPLAYMATRIX"), aspect)


def _upright(rgb: np.ndarray, matrix: Any, aspect: float) -> np.ndarray:
    """The picture with square pixels (theirs are `aspect` wide), turned as the display matrix says."""
    height, width = rgb.shape[:2]
    if aspect != 1 and 0.25 <= aspect <= 4:
        size = (nearest_pixel(width * aspect), height) if aspect > 1 else (width, nearest_pixel(height / aspect))
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


def write_mp4(path: str | os.PathLike, pictures: Iterable[Image.Image], rate: Fraction) -> None:
    """Encode RGB pictures, all of the first one's size with even sides, at `rate` a second as a silent MP4.

    In H.264, or MPEG-4 where FFmpeg lacks x264. Raises `UserError` if the encoder fails.
    """
    codec, options = "libx264", {"crf": "20", "preset": "veryfast"}
    if codec not in av.codecs_available:
        codec, options = "mpeg4", {"qmin": "3", "qmax": "3"}
    try:
        # FFmpeg gets the file's name, not the file: so it can tell if the disk is full.
        with atomic_write(path) as file, av.open(str(Path(file.name).absolute()), "w", format="mp4") as container:
            stream = container.add_stream(codec, rate=rate, options=options)
            for number, picture in enumerate(pictures):
                if number == 0:
                    stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise UserError(f"{path}: the video cannot be written ({error.strerror})") from None
