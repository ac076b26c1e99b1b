"""The timeline of a video as files: tables of its windows, segments, subtitles."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.atomic import atomic_write
from common.cli import print_table
from common.contact_sheet import clean
from prediction.classify import Fusion, describe
from prediction.timeline import Segment, Timeline, label_name, segments, winners
from prediction.timeline_plot import clock, plot_timeline

SUFFIXES = (".png", ".csv", ".json", ".srt")


def describe_timeline(timeline: Timeline, fusion: Fusion) -> dict:
    """Plain values as `classify.describe` gives, scores being means over the windows, and segments for the answer."""
    result = describe(timeline, fusion._replace(threshold=0))
    del result["answer"]
    return result | {"segments": _plain_segments(timeline)}


def _plain_segments(timeline: Timeline) -> list[dict]:
    return [
        {
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "class": label_name(segment.label, timeline.classes),
            "probability": _rounded(segment.probability, 4),
        }
        for segment in segments(timeline)
    ]


def _rounded(value: float, digits: int) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)


def print_segments(found: Sequence[dict]) -> None:
    """Print when what happens, segments of `describe_timeline`."""
    rows = []
    for part in found:
        percent = "" if part["probability"] is None else f"{100 * part['probability']:.1f}"
        rows.append((f"  {part['class']}", clock(part["start"], 1), clock(part["end"], 1), percent))
    print_table(("  segment", "from", "to", "probability, %"), rows)


def write_timeline(path: Path, timeline: Timeline, title: str) -> None:
    """Write the picture `path`, and beside it .csv and .json with the windows and .srt with the segments."""
    found, rate = segments(timeline), float(timeline.rate)
    plot_timeline(path, timeline, found, title)
    windows, values = [], []
    for (first, end), people, label, row in zip(
        timeline.spans, timeline.people, winners(timeline), timeline.probabilities, strict=True
    ):
        window = {"start": round(first / rate, 3), "end": round(end / rate, 3), "people": _rounded(people, 4)}
        windows.append(window | {"winner": label_name(label, timeline.classes)})
        values.append({name: _rounded(value, 6) for name, value in zip(timeline.classes, row, strict=True)})
    table = pd.DataFrame([window | row for window, row in zip(windows, values, strict=True)])
    content = {"video": title, "frames": timeline.num_frames, "rate": rate}
    content |= {"minimum": timeline.minimum, "segments": _plain_segments(timeline)}
    content["windows"] = [window | {"probabilities": row} for window, row in zip(windows, values, strict=True)]
    texts = {".csv": table.to_csv(index=False, lineterminator="\n"), ".srt": subtitles(found, timeline.classes)}
    texts[".json"] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for suffix, text in texts.items():
        with atomic_write(path.with_suffix(suffix)) as file:
            file.write(text.encode("utf-8", "replace"))


def subtitles(found: Sequence[Segment], classes: Sequence[str]) -> str:
    """The segments with a class in the SubRip format (.srt)."""
    shown = [segment for segment in found if segment.label >= 0]
    return "".join(
        f"{number}\n{_stamp(segment.start)} --> {_stamp(segment.end)}\n"
        f"{clean(classes[segment.label])} ({100 * segment.probability:.0f} %)\n\n"
        for number, segment in enumerate(shown, 1)
    )


def _stamp(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"
