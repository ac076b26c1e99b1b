"""Results of a fusion: what `average_fusion.py` prints and writes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from common.atomic import atomic_write
from common.cli import UserError
from common.contact_sheet import write_sheet
from common.frames import list_frames, read_image
from common.video import WHOLE, duration, frames_of, rate_of
from dataloader.frame_index import find_places
from dataloader.names import first_names
from dataloader.split_train_test_video import Video
from fusion.metrics import confusion_matrix, fuse, precision, softmax
from fusion.plots import plot_confusion
from fusion.scores import save_scores
from pose.draw import draw_people
from pose.keypoints import FILE_NAME, load_keypoints, people_of_frame

MAX_MISTAKES = 12  # in misclassified.png
FEW_VIDEOS = 50  # with fewer, a difference of a few points of Prec@1 is chance


@dataclass
class SplitResult:
    """Scores of a split's test videos, of each stream and fused."""

    split: str
    classes: list[str]
    videos: list[Video]
    skipped: list[str]  # names of the test videos that not every stream has
    scores: dict[str, np.ndarray]  # of each stream, then "fused": float32 (videos, classes)
    paths: dict[str, str]  # score pickle of each stream
    weights: dict[str, float]  # of each stream, sum 1
    validation: dict | None  # `videos`, `prec1` of each stream and fused, and whether `weights_chosen` by it

    @cached_property
    def labels(self) -> np.ndarray:
        """True classes (videos,), 0-based."""
        return np.array([video.label for video in self.videos])

    @cached_property
    def figures(self) -> pd.DataFrame:
        """Prec@1 and, of four classes or more, Prec@3 in percent: of each stream, fused, and fused without each."""
        scores = dict(self.scores)
        for left_out in self.weights if len(self.weights) > 2 else ():
            rest = [name for name in self.weights if name != left_out and self.weights[name]]
            if rest:
                fused = fuse([scores[name] for name in rest], [self.weights[name] for name in rest])
                scores[f"fused without {left_out}"] = fused
        topk = (1, 3) if len(self.classes) > 3 else (1,)
        rows = {name: precision(values, self.labels, topk) for name, values in scores.items()}
        return pd.DataFrame.from_dict(rows, "index", columns=[f"Prec@{k}" for k in topk])

    @cached_property
    def hits(self) -> pd.DataFrame:
        """100 where a stream, or their fusion, is right about a video, else 0; by the name of its class."""
        right = {name: 100.0 * (scores.argmax(1) == self.labels) for name, scores in self.scores.items()}
        return pd.DataFrame(right, [video.class_name for video in self.videos])

    @cached_property
    def matrix(self) -> np.ndarray:
        """Confusion matrix (classes, classes) of the fusion, in videos."""
        return confusion_matrix(self.scores["fused"].argmax(1), self.labels, len(self.classes))


def class_table(results: Sequence[SplitResult]) -> pd.DataFrame:
    """Videos of each class over all splits, and Prec@1 of each stream and fused; NaN of no videos."""
    by_class = pd.concat([result.hits for result in results]).groupby(level=0)
    table = by_class.mean().reindex(results[0].classes)
    table.insert(0, "videos", by_class.size().reindex(table.index, fill_value=0))
    return table


def mean_and_std(results: Sequence[SplitResult]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and sample standard deviation (n − 1) of the figures over the splits."""
    figures = pd.concat([result.figures for result in results]).groupby(level=0, sort=False)
    return figures.mean(), figures.std()


# ---- printing ----


def print_table(table: pd.DataFrame, digits: int = 2) -> None:
    """Print numbers with so many digits; wide letters count as two."""
    with pd.option_context("display.unicode.east_asian_width", True):
        print(table.to_string(float_format=f"{{:.{digits}f}}".format, na_rep=""))


def print_split(result: SplitResult) -> None:
    """Table of one split: weight and figures of each stream and fused; then why they may mean little."""
    print(f"\nsplit {result.split}: {len(result.videos)} videos, {len(result.classes)} classes")
    if result.skipped:
        print(f"skipped: {len(result.skipped)} videos that not every stream has ({first_names(result.skipped)})")
    table = result.figures.copy()
    table.insert(0, "weight", pd.Series(result.weights))
    print_table(table)
    for note in notes(result):
        print(f"note: {note}")


def notes(result: SplitResult) -> Iterator[str]:
    """What to know before the figures of a fusion are believed."""
    which, prec1, counts = "test", result.figures["Prec@1"].to_dict(), {"test": len(result.videos)}
    advice = "; --weights auto chooses weights on validation scores"
    if result.validation:
        which, prec1, counts["validation"] = "validation", result.validation["prec1"], result.validation["videos"]
        if result.validation["weights_chosen"]:
            yield f"weights chosen on the {counts[which]} validation videos (Prec@1 {prec1['fused']:.2f})"
            advice = ""
    for what, count in counts.items():
        if count < FEW_VIDEOS:
            yield f"{count} {what} videos are few: each counts for {100 / count:.1f} points of Prec@1"
    rows = {name: result.scores[name] for name in result.weights}
    sums = [name for name, scores in rows.items() if (scores >= 0).all() and np.allclose(scores.sum(1), 1, atol=1e-3)]
    if 0 < len(sums) < len(rows):
        yield f"{', '.join(sums)}: probabilities (each row sums to 1) beside logits; save logits of all streams"
    best = max(result.weights, key=lambda name: prec1[name])
    if (fused := prec1["fused"]) < (alone := prec1[best]):
        yield f"on the {which} videos {best} alone (Prec@1 {alone:.2f}) is better than the fusion ({fused:.2f}){advice}"


def print_mean_and_std(results: Sequence[SplitResult]) -> None:
    """Table of mean and standard deviation over several splits."""
    print(f"\nmean ± standard deviation over the {len(results)} splits")
    mean, std = (table.map("{:.2f}".format) for table in mean_and_std(results))
    print_table(mean + " ± " + std)


def print_classes(results: Sequence[SplitResult]) -> None:
    """Table of each class over all splits: videos, Prec@1 of the streams and fused, what fusing gains on the best."""
    table = class_table(results)
    best = pd.concat([result.hits for result in results])[list(results[0].weights)].mean().idxmax()
    table[f"fused - {best}"] = (table["fused"] - table[best]).map("{:+.1f}".format, na_action="ignore")
    print("\nPrec@1 of each class")
    print_table(table, 1)


# ---- files ----


def write_split(folder: Path, result: SplitResult, image_folders: Sequence[Path]) -> None:
    """Write fused scores, confusion matrix, and, given folders of images, the mistakes."""
    fused = zip(result.videos, result.scores["fused"], strict=True)
    save_scores(folder / "fusion_video_preds.pickle", {video.name: row for video, row in fused})
    title = f"Fusion of {', '.join(result.paths)}, split {result.split}"
    write_confusion(folder, result.matrix, result.classes, title)
    if image_folders:
        wrong, count = len(result.videos) - int(result.matrix.trace()), len(result.videos)
        title = f"split {result.split}: {wrong} of {count} videos misclassified"
        title += f"; the {MAX_MISTAKES} most confident mistakes" * (wrong > MAX_MISTAKES)
        write_sheet(folder / "misclassified.png", find_mistakes(result, image_folders), title)


def write_confusion(folder: Path, matrix: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Write a confusion matrix (counts, rows are true classes) as conf_matrix.png and .csv."""
    plot_confusion(matrix, classes, folder / "conf_matrix.png", title)
    with atomic_write(folder / "conf_matrix.csv", "w") as file:
        pd.DataFrame(matrix, classes, classes).to_csv(file, index_label="true \\ predicted", lineterminator="\n")


def find_mistakes(result: SplitResult, image_folders: Sequence[Path]) -> list[tuple[str, list[np.ndarray | None]]]:
    """The most confident mistakes: all answers as text, and the middle frame from each of the folders, if it is there.

    Most confident is the greatest lead of the fused score over the true class's.
    """
    fused = result.scores["fused"]
    lead = fused.max(1) - fused[np.arange(len(fused)), result.labels]
    order = [i for i in np.argsort(-lead, kind="stable") if fused[i].argmax() != result.labels[i]][:MAX_MISTAKES]
    videos = [result.videos[i] for i in order]
    places = [find_places(root, videos) for root in image_folders]
    cells = []
    for i, video in zip(order, videos, strict=True):
        lines = [video.name, f"true: {video.class_name}"]
        for name in ("fused", *result.weights):
            probabilities = softmax(result.scores[name][i])
            best = int(probabilities.argmax())
            mark = "✓" if best == video.label else "✗"
            lines.append(f"{mark} {name}: {result.classes[best]} ({probabilities[best]:.0%})")
        cells.append(("\n".join(lines), [_middle_frame(there[video]) for there in places]))
    return cells


def _middle_frame(place: Path | None) -> np.ndarray | None:
    """Of a video's file, of a folder of images, or drawn from a pose folder's keypoints; None if it cannot be read."""
    try:
        if place is None:
            return None
        if place.is_file():
            middle = 1 + int(duration(place) * rate_of(place, WHOLE) / 2)
            return next(frames_of(place, wanted=(middle,)), None)
        if frames := list_frames(place):
            return read_image(frames[(len(frames) - 1) // 2])
        keypoints = load_keypoints(place / FILE_NAME)
        return draw_people(people_of_frame(keypoints, (keypoints.num_frames + 1) // 2), keypoints.frame_size)
    except UserError:
        return None


def write_summary(path: Path, results: Sequence[SplitResult]) -> None:
    """Write the results as JSON: of each split, of each class, and over several splits mean and std."""

    def named(figures: pd.DataFrame) -> object:
        return figures.rename(columns={"Prec@1": "prec1", "Prec@3": "prec3"}).to_dict("index")

    table = class_table(results).fillna(0)
    videos, prec1 = table.pop("videos"), table.to_dict("records")
    summary: dict[str, object] = {
        "splits": [
            {
                "split": result.split,
                "videos": len(result.videos),
                "skipped": result.skipped,
                "scores": result.paths,
                "weights": result.weights,
                "validation": result.validation,
                "figures": named(result.figures),
            }
            for result in results
        ],
        "classes": [
            {"class": name, "videos": count, "prec1": values}
            for name, count, values in zip(results[0].classes, videos.tolist(), prec1, strict=True)
        ],
    }
    if len(results) > 1:
        mean, std = mean_and_std(results)
        summary |= {"mean": named(mean), "std": named(std)}
    with atomic_write(path, "w") as file:
        json.dump(summary, file, indent=2, ensure_ascii=False)
        file.write("\n")
