"""The timeline of a video as files: tables of its windows, segments, subtitles."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.atomic import atomic_write
from common.cli import print_table
from common.contact_sheet import clean
from prediction.classify import Fusion, describe_scores, notes
from prediction.timeline import Segment, Timeline, label_name, winners
from prediction.timeline_plot import clock, plot_timeline

MEANING = (
    "start, end: seconds; people: share of the frames looked at that show somebody; probabilities: the softmax of the "
    "window's fused logits, from 0 to 1, null where it has none; winner, class: the likeliest class, 'none' if it is "
    "less probable than `minimum`, 'nobody in view', or 'gap' where it could not be scored; a moment belongs to the "
    "window whose centre is nearest"
)
SUFFIXES = (".png", ".csv", ".json", ".srt")


def describe_timeline(timeline: Timeline, found: Sequence[Segment], fusion: Fusion) -> dict:
    """Plain values as `results.describe` gives, scores being means over the windows, and the segments."""
    counts = {"frames_looked_at": timeline.looked_at, "frames_with_people": timeline.with_people}
    result = {"frames": timeline.num_frames, **counts, "damage": timeline.damage or None}
    result |= describe_scores(timeline.logits, fusion)
    return result | {"notes": notes(result, fusion, None), "segments": plain_segments(found, fusion.classes)}


def plain_segments(found: Sequence[Segment], classes: Sequence[str]) -> list[dict]:
    """Segments as JSON takes them."""
    return [
        {
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "class": label_name(segment.label, classes),
            "probability": None if np.isnan(segment.probability) else round(segment.probability, 4),
        }
        for segment in found
    ]


def print_segments(found: Sequence[Segment], classes: Sequence[str]) -> None:
    """Print when what happens."""
    rows = [
        (
            f"  {label_name(segment.label, classes)}",
            clock(segment.start, 1),
            clock(segment.end, 1),
            "" if np.isnan(segment.probability) else f"{100 * segment.probability:.1f}",
        )
        for segment in found
    ]
    print_table(("  segment", "from", "to", "probability, %"), rows)


def write_timeline(
    path: Path, timeline: Timeline, found: Sequence[Segment], classes: Sequence[str], minimum: float, title: str
) -> None:
    """Write the picture `path`, and beside it .csv and .json with the windows and .srt with the segments."""
    plot_timeline(path, timeline, found, classes, minimum, title)
    windows = _windows(timeline, classes, minimum)
    probabilities = [
        [None if np.isnan(value) else round(float(value), 6) for value in row] for row in timeline.probabilities
    ]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*windows[0], *classes])
    writer.writerows([*window.values(), *row] for window, row in zip(windows, probabilities, strict=True))
    named = [
        window | {"probabilities": dict(zip(classes, row, strict=True))}
        for window, row in zip(windows, probabilities, strict=True)
    ]
    content = {"meaning": MEANING, "video": title, "frames": timeline.num_frames, "rate": float(timeline.rate)}
    content |= {"minimum": minimum, "segments": plain_segments(found, classes), "windows": named}
    texts = {".csv": table.getvalue(), ".srt": subtitles(found, classes)}
    texts[".json"] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for suffix, text in texts.items():
        with atomic_write(path.with_suffix(suffix)) as file:
            file.write(text.encode("utf-8", "replace"))


def _windows(timeline: Timeline, classes: Sequence[str], minimum: float) -> list[dict]:
    rate = float(timeline.rate)
    columns = (timeline.spans, timeline.people, winners(timeline, minimum))
    return [
        {
            "start": round(float(first / rate), 3),
            "end": round(float(end / rate), 3),
            "people": None if np.isnan(people) else round(float(people), 4),
            "winner": label_name(label, classes),
        }
        for (first, end), people, label in zip(*columns, strict=True)
    ]


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
