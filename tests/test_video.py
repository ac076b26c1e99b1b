"""Clocks, colours, sizes and damage of video files, as they are decoded."""

from fractions import Fraction

import av
import numpy as np
import pytest

from common.records import FrameSettings
from common.video import duration, frames_of
from tests.helpers import ROOT, write_video

CASES = ROOT.parent / "shared" / "cases" / "videos"


def levels(count, size=(48, 64)):
    """Pictures that brighten from one to the next."""
    return [np.full((*size, 3), 20 + 200 * i // count, np.uint8) for i in range(count)]


def brightness(path, fps=None):
    return [int(rgb.mean()) for rgb in frames_of(path, FrameSettings(fps=fps, short_side=None))]


def stored_for_shown(packet):
    packet.pts = packet.dts


@pytest.mark.parametrize(
    "name, codec, change",
    [("a.avi", "mpeg4", None), ("a.avi", "libx264", None), ("a.mkv", "libx264", stored_for_shown)],
)
def test_each_frame_comes_once_where_stamps_go_back_and_forth(tmp_path, name, codec, change):
    path = write_video(tmp_path / name, levels(40), codec, 25, change=change, max_b_frames=3)
    every = brightness(path)
    assert len(every) == 40 and every == sorted(every)
    assert brightness(path, fps=25) == every
    assert brightness(path, fps=12.5)[:-1] == every[::2][:19] and len(brightness(path, fps=12.5)) in (20, 21)


def test_an_avis_empty_slots_take_their_time(tmp_path):
    def late(packet):
        packet.pts = packet.dts = packet.pts + 10 * (packet.pts >= 10)

    path = write_video(tmp_path / "a.avi", levels(20), rate=25, change=late)
    assert len(brightness(path)) == 20 and len(brightness(path, fps=25)) == 30


def test_a_clock_that_starts_late_cuts_nothing_short(tmp_path):
    def later(packet):
        packet.pts, packet.dts = packet.pts + 1_000_000, packet.dts + 1_000_000

    path = write_video(tmp_path / "a.mkv", levels(50), rate=25, change=later)
    damage = []
    assert len(list(frames_of(path, damage=damage))) == 50 and not damage
    assert duration(path) == pytest.approx(2, abs=0.1)


def test_a_header_that_promises_more_is_no_damage(tmp_path):
    path = write_video(tmp_path / "a.avi", levels(40), rate=25)
    data, count = path.read_bytes(), (40).to_bytes(4, "little")
    assert data[:400].count(count) >= 2  # of the file, and of its stream
    path.write_bytes(data[:400].replace(count, (200).to_bytes(4, "little")) + data[400:])
    damage = []
    assert len(list(frames_of(path, damage=damage))) == 40 and not damage


@pytest.mark.parametrize("transfer, level", [(18, 0.75), (16, 0.58)])
def test_hdr_becomes_standard_colours(tmp_path, transfer, level):
    """BT.2408: reference white is 75 % of HLG's range, 58 % of PQ's."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = transfer, 9, 9, 1
        planes = np.full((72, 64), 512, np.uint16)
        planes[:48] = 64 + 876 * level
        container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, "yuv420p10le")))
        container.mux(stream.encode())
    assert next(frames_of(path)).mean() == pytest.approx(255, abs=12)


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path):
    """As where a phone is turned: VP8's key frames carry their size."""
    path, damage = tmp_path / "a.webm", []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height = 64, 48
        packets = stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 200, np.uint8)))
        turned = av.CodecContext.create("libvpx", "w")
        turned.width, turned.height, turned.pix_fmt, turned.time_base = 48, 64, "yuv420p", Fraction(1, 25)
        more = turned.encode(av.VideoFrame.from_ndarray(np.full((64, 48, 3), 200, np.uint8)))
        for number, packet in enumerate([*packets, *stream.encode(), *more, *turned.encode()]):
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            container.mux(packet)
    pictures = list(frames_of(path, damage=damage))
    assert [rgb.shape for rgb in pictures] == [(48, 64, 3)] * 2 and "64x48 to 48x64" in damage[0]
    bars = pictures[1].mean((0, 2))
    assert bars[:12].max() < 20 and bars[-12:].max() < 20 and bars[20:44].min() > 180


@pytest.mark.parametrize("settings", [FrameSettings(), FrameSettings(every=3), FrameSettings(fps=7, short_side=24)])
def test_wanted_frames_are_those_of_the_whole_video(tmp_path, settings):
    write_video(tmp_path / "a.mp4", levels(40), "libx264", 25)
    whole = list(frames_of(tmp_path / "a.mp4", settings))
    for wanted in ({2}, {1, 5, len(whole)}, {len(whole) + 1}, set()):
        frames = list(frames_of(tmp_path / "a.mp4", settings, wanted=wanted))
        expected = [frame for number, frame in enumerate(whole, 1) if number in wanted]
        assert len(frames) == len(expected) and all(map(np.array_equal, frames, expected))


def test_colours_of_a_phones_video(shared):
    hdr, standard = (next(frames_of(CASES / name)).astype(int) for name in ("iphone_hlg.mov", "hevc_8bit.mp4"))
    assert abs(hdr - standard).mean() < 3
    shirt = abs(standard - (200, 40, 40)).max(2) < 10
    assert abs(hdr[shirt].mean(0) - (200, 40, 40)).max() < 12
