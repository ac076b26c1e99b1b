"""Pictures of a video file, and their form on disk."""

import contextlib
import functools
import heapq
import io
import math
import os
from collections import defaultdict, deque
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition
from av.video.reformatter import ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image, ImageFilter, ImageOps

from common.atomic import atomic_write
from common.cli import UserError
from common.frames import decode_image, nearest_pixel, scaled_size
from common.records import FrameSettings, alike

WHOLE = FrameSettings(short_side=None)
REORDERED = 16  # frames that a decoder may hold back to put them in order
LOOKED_AT = 300  # packets, to measure a file's rate of frames
USUAL_RATE = Fraction(25)  # frames a second where nothing tells them
MAX_PAUSE = 10  # seconds between two frames; a longer one is a jump of the clock, as where recordings were joined


def frames_of(
    path: str | os.PathLike,
    settings: FrameSettings = WHOLE,
    threads: int = 1,
    damage: list[str] | None = None,
    wanted: Collection[float] | None = None,
) -> Generator[np.ndarray, None, None]:
    """Yield the frames of a video's best stream, uint8 RGB (H, W, 3), as extract_frames.py makes them before the JPEG.

    All, or those whose numbers, from 1, are `wanted`, in order. Each decoded frame comes once, whatever its time stamp;
    with `settings.fps` the one nearest to 0, 1/fps, 2/fps, … seconds after the first frame. They are upright, of square
    pixels, standard colours and the first one's size, with black bars if need be. `threads`: of the decoder.

    Packets that do not decode are skipped. If there are any, if the file breaks off or if its frames change size, a
    line about it is appended to `damage`. Refuses, without the path, a video of which less than half can be decoded.
    """
    with contextlib.closing(_decode(path, settings, threads, damage, wanted)) as frames:
        yield from (resize_short_side(rgb, settings.short_side) for rgb in frames if rgb is not None)


def count_frames_of(
    path: str | os.PathLike, settings: FrameSettings, threads: int = 1, damage: list[str] | None = None
) -> int:
    """How many frames `frames_of` gives: the video is decoded, but no colours are computed."""
    return sum(1 for _ in _decode(path, settings, threads, damage, wanted=(math.inf,)))


def settings_for(path: str | os.PathLike, settings: FrameSettings) -> FrameSettings:
    """The settings for a video: those given, or the rate of training where the video's own is clearly another one."""
    if settings.fps or not settings.rate:
        return settings
    own = own_rate(path)
    same = alike(float(own / settings.every) if own else None, settings.rate)
    return settings if same else replace(settings, every=1, fps=settings.rate)


def rate_of(path: str | os.PathLike, settings: FrameSettings) -> Fraction:
    """How many of the frames that `frames_of` makes are a second."""
    return settings_for(path, settings).per_second(own_rate(path))


def made_of(path: str | os.PathLike, settings: FrameSettings) -> dict:
    """How the frames of a video are made, for its record: `settings`, and their rate if the video tells its own."""
    own = own_rate(path)
    return asdict(settings) | {"rate": settings.fps or (own and float(own / settings.every))}


def _decode(
    path: str | os.PathLike,
    settings: FrameSettings,
    threads: int,
    damage: list[str] | None,
    wanted: Collection[float] | None,
) -> Generator[np.ndarray | None, None, None]:
    """The frames in their own size; None in place of one that is not wanted."""
    settings = settings_for(path, settings)
    tally: dict[str, float] = defaultdict(int)
    sizes: dict[tuple[int, int], None] = {}
    try:
        with open_video(path) as container:
            stream = video_stream(container, threads)
            length, declared = _length(container), stream.frames
            begin, is_avi = (container.start_time or 0) / av.time_base, container.format.name == "avi"
            aspect = float(stream.sample_aspect_ratio or 1)
            frames = read_frames(container, stream, tally)
            if settings.fps:
                chosen = _resampled(in_order(frames, stream), settings.fps)
            else:
                chosen = (frame for frame, _ in islice(frames, 0, None, settings.every))
            reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than its work
            last = None if wanted is None else max(wanted, default=0)
            for number, frame in enumerate(chosen, 1):
                rgb, asked = None, wanted is None or number in wanted
                if asked or number == 1:  # the first one gives the size
                    rgb = to_rgb(frame, reformatter, aspect)
                    sizes[rgb.shape[1], rgb.shape[0]] = None
                    first, *others = sizes
                    rgb = np.asarray(ImageOps.pad(Image.fromarray(rgb), first)) if others else rgb
                yield rgb if asked else None
                if last is not None and number >= last:
                    return
    except av.FFmpegError as error:
        if not tally["frames"]:
            raise UserError(f"cannot be read: {error.strerror}") from None
        tally["bad"] += 1
    except ValueError as error:  # PyAV, of a pixel format that it cannot convert
        raise UserError(f"cannot be decoded: {error}") from None
    if not tally["frames"]:
        raise UserError("no frame of it can be decoded")
    problems = []
    if tally["bad"]:
        expected = max(tally["packets"], declared)
        if 2 * tally["frames"] < expected:
            raise UserError(f"damaged: only {tally['frames']} of {expected} frames can be decoded")
        problems.append(f"damaged: {tally['frames']} of {expected} frames decoded, {tally['bad']} with errors")
    elif tally["end"] - begin < 0.9 * length - 0.5 and not is_avi:  # an AVI's header may promise more than there was
        problems.append(f"cut short: ends at {tally['end'] - begin:.1f} s of {length:.1f} s")
    if len(sizes) > 1:
        problems.append(f"changes from {' to '.join(f'{width}x{height}' for width, height in sizes)}: fitted in")
    if problems and damage is not None:
        damage.append("; ".join(problems))


def read_frames(
    container: InputContainer, stream: VideoStream, tally: dict[str, float]
) -> Iterator[tuple[av.VideoFrame, Fraction | None]]:
    """Yield a stream's frames, each with its time stamp in seconds if it has one; `tally` counts what was met.

    Packets that do not decode are skipped. AVI and raw streams have no time stamps of their own but one rate, and
    what FFmpeg gives their frames goes back and forth: there, frames and the slots left empty are counted.
    """
    is_avi, counted = container.format.name == "avi", _is_counted(container)
    step = 1 / (declared_rate(stream) or USUAL_RATE)
    slot, before = 0, None
    for packet in container.demux():  # of all streams, for the time at which the file ends
        if packet.pts is not None:
            tally["end"] = max(tally["end"], float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index != stream.index:
            continue
        tally["packets"] += packet.size > 0
        if is_avi and packet.dts is not None:
            slot += max(packet.dts - before - 1, 0) if before is not None else 0
            before = packet.dts
        try:
            decoded = cast(list[av.VideoFrame], packet.decode())
        except av.FFmpegError:
            tally["bad"] += 1
            continue
        tally["bad"] += packet.is_corrupt or any(frame.is_corrupt for frame in decoded)
        for frame in decoded:
            tally["frames"] += 1
            stamp = None if frame.pts is None else frame.pts * frame.time_base
            yield frame, slot * step if counted else stamp
            slot += 1


def _is_counted(container: InputContainer) -> bool:
    return container.format.name == "avi" or bool(Flags(container.format.flags) & Flags.no_timestamps)


def in_order(
    frames: Iterable[tuple[av.VideoFrame, Fraction | None]], stream: VideoStream
) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Yield frames with their seconds after the first one, which rise, from time stamps that may not.

    Decoders give frames in order, but some files tell when a frame was stored in place of when it is shown: each
    frame gets the least stamp of `REORDERED` frames. A frame without a stamp, or one that is more than `MAX_PAUSE`
    later, as where recordings were joined, follows the one before as that followed its own.
    """
    step, time = 1 / (declared_rate(stream) or USUAL_RATE), Fraction(0)
    waiting: deque[av.VideoFrame] = deque()
    stamps: list[Any] = []
    last = newest = None
    for frame, stamp in chain(frames, [(None, None)]):
        before, newest = newest, (newest or 0) + step if stamp is None else stamp
        jumps = before is not None and not -1 < newest - before <= MAX_PAUSE
        while len(waiting) > (0 if jumps or frame is None else REORDERED):
            passed = stamps[0] - last if last is not None else 0
            step = passed if 0 < passed <= MAX_PAUSE else step
            time += step if last is not None else 0
            last = heapq.heappop(stamps)
            yield waiting.popleft(), time
        waiting.append(frame)
        heapq.heappush(stamps, newest)


def _resampled(frames: Iterable[tuple[av.VideoFrame, Fraction]], fps: float) -> Iterator[av.VideoFrame]:
    """Yield the frames that are nearest to 0, 1/fps, 2/fps, … seconds, some never, some several times."""
    rate, count, step, before = Fraction(str(fps)), 0, 1 / USUAL_RATE, None
    for frame, time in chain(frames, [(None, None)]):
        if before:
            step = time - before[1] if frame else step
            while count < (before[1] + step / 2) * rate:
                yield before[0]
                count += 1
        before = frame, time


def open_video(path: str | os.PathLike) -> InputContainer:
    """A video file as PyAV's container."""
    # Absolute: FFmpeg would take "12:30.avi" for an address. Whitelist: a playlist shall not reach the net.
    return av.open(str(Path(path).absolute()), options={"protocol_whitelist": "file"})


def own_rate(path: str | os.PathLike) -> Fraction | None:
    """Frames per second of a video file; None where it tells nothing of use."""
    try:
        with open_video(path) as container:
            stream = video_stream(container, 1)
            rate = declared_rate(stream)
            if not _is_counted(container):  # what the header says may be wrong
                packets = islice(container.demux(stream), LOOKED_AT)
                stamps = [packet.pts * packet.time_base for packet in packets if packet.pts is not None]
                span = max(stamps) - min(stamps) if stamps else 0
                measured = (len(stamps) - 1) / span if span else rate
                rate = rate if rate and alike(float(rate), float(measured)) else measured
    except (av.FFmpegError, UserError):
        return None
    return rate.limit_denominator(1001) if rate and Fraction(1, 10) <= rate <= 240 else None


def declared_rate(stream: VideoStream) -> Fraction | None:
    """Frames per second as a file's header, or else FFmpeg's guess, has them."""
    return stream.average_rate or stream.guessed_rate or None


def duration(path: str | os.PathLike) -> float:
    """Seconds that a video file lasts: as it says, else, as with what browsers record, by its last packet's time."""
    try:
        with open_video(path) as container:
            stamps = [0.0]
            if not (seconds := _length(container)):
                packets = container.demux(video_stream(container, 1))
                stamps += [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]
            return seconds or max(stamps)
    except av.FFmpegError as error:
        raise UserError(f"cannot be read: {error.strerror}") from None


def _length(container: InputContainer) -> float:
    begin, length = ((value or 0) / av.time_base for value in (container.start_time, container.duration))
    # Matroska counts it from 0, also where its first frame comes later.
    return length - begin if "matroska" in container.format.name and length > begin else max(length, 0)


def video_stream(container: InputContainer, threads: int) -> VideoStream:
    """A container's best video stream, to be decoded by so many threads."""
    stream = cast(VideoStream, container.streams.best("video"))
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise UserError("no video stream in it")
    if stream.codec_context is None:
        raise UserError("no decoder for its video stream")
    stream.thread_type = "AUTO" if threads > 1 else "NONE"
    stream.codec_context.thread_count = threads
    return stream


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, aspect: float) -> np.ndarray:
    """A decoded frame as uint8 RGB (H, W, 3), upright; its pixels, `aspect` times as wide as high, made square."""
    rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
        rgb = np.asarray(Image.fromarray(rgb).filter(_standard_colors(frame.color_trc)))
    return _upright(rgb, frame.side_data.get("DISPLAYMATRIX"), aspect)


@functools.cache
def _standard_colors(transfer: int) -> ImageFilter.Color3DLUT:
    """From HDR (BT.2100, PQ or HLG) to colours for usual screens: its reference white (BT.2408) is white."""
    steps = np.linspace(0, 1, 65)
    values = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")[::-1], 3)  # red changes fastest
    if transfer == ColorTrc.SMPTE2084:
        power = values ** (1 / 78.84375)
        light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        light *= 10_000 / 203
    else:
        light = np.where(values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        light /= 0.265
    from_2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
    return ImageFilter.Color3DLUT(65, ((light @ from_2020.T).clip(0, 1) ** (1 / 2.2)).astype(np.float32).ravel())


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


def resize_short_side(rgb: np.ndarray, short_side: int | None = 256) -> np.ndarray:
    """Scale a uint8 picture (H, W, 3) to that short side, if any, the long one in proportion, to the nearest pixel."""
    height, width = scaled_size(rgb.shape[:2], short_side or min(rgb.shape[:2]))
    if (height, width) == rgb.shape[:2]:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0))


def encode_jpeg(rgb: np.ndarray, quality: int | None = 95) -> bytes:
    """JPEG file (4:2:0) of a uint8 RGB picture (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality or 95, subsampling="4:2:0")
    return buffer.getvalue()


def through_jpeg(rgb: np.ndarray, quality: int | None) -> np.ndarray:
    """What a JPEG file of that quality makes of a uint8 RGB picture (H, W, 3); None: nothing."""
    return rgb if quality is None else decode_image(encode_jpeg(rgb, quality))


def write_mp4(path: str | os.PathLike, pictures: Iterable[Image.Image], rate: Fraction) -> None:
    """Encode RGB pictures, all of the first one's size with even sides, at `rate` a second as a silent MP4 in H.264."""
    options = {"crf": "20", "preset": "veryfast"}
    try:
        # FFmpeg gets the file's name, not the file: so it can tell if the disk is full.
        with atomic_write(path) as file, av.open(str(Path(file.name).absolute()), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=rate, options=options)
            for number, picture in enumerate(pictures):
                if number == 0:
                    stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise UserError(f"{path}: the video cannot be written ({error.strerror})") from None
