"""Results of a fusion: what `average_fusion.py` prints and writes."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from common.atomic import atomic_write
from common.cli import UserError, print_table
from common.frames import FRAME_NAME
from dataloader.frame_index import index_frames
from dataloader.names import first_names
from dataloader.split_train_test_video import Video
from fusion.metrics import confusion_matrix, fuse, precision, softmax
from fusion.plots import Answer, Mistake, plot_confusion, plot_misclassified
from fusion.scores import save_scores
from pose.keypoints import FILE_NAME, load_keypoints

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
    validation: dict | None  # how --weights auto chose them, see `weights_from_validation`

    @cached_property
    def labels(self) -> np.ndarray:
        """True classes (videos,), 0-based."""
        return np.array([video.label for video in self.videos])

    @cached_property
    def topk(self) -> tuple[int, ...]:
        """The k of Prec@k: of three classes or fewer Prec@3 is always 100."""
        return (1, 3) if len(self.classes) > 3 else (1,)

    @cached_property
    def precisions(self) -> dict[str, list[float]]:
        """Prec@k in percent for each of `topk`, of each stream and fused."""
        return {name: precision(scores, self.labels, self.topk) for name, scores in self.scores.items()}

    @cached_property
    def probabilities(self) -> list[str]:
        """Streams whose scores are probabilities: none is negative, and each video's sum to 1."""
        return [
            name
            for name in self.weights
            if (self.scores[name] >= 0).all() and np.allclose(self.scores[name].sum(1), 1, atol=1e-3)
        ]

    @cached_property
    def matrices(self) -> dict[str, np.ndarray]:
        """Confusion matrices (classes, classes) of counts, of each stream and fused."""
        count = len(self.classes)
        return {name: confusion_matrix(scores.argmax(1), self.labels, count) for name, scores in self.scores.items()}

    @cached_property
    def without(self) -> dict[str, np.ndarray]:
        """Of three streams or more: scores (videos, classes) fused without each, by its name, if the others count."""
        others = {name: [other for other in self.weights if other != name] for name in self.weights}
        return {
            name: fuse([self.scores[other] for other in rest], [self.weights[other] for other in rest])
            for name, rest in others.items()
            if len(rest) > 1 and any(self.weights[other] for other in rest)
        }


def total_matrices(results: Sequence[SplitResult]) -> dict[str, np.ndarray]:
    """Confusion matrices of each stream and fused, summed over the splits."""
    return {name: np.sum([result.matrices[name] for result in results], axis=0) for name in results[0].matrices}


def class_results(results: Sequence[SplitResult]) -> list[tuple[str, int, dict[str, float]]]:
    """Of each class over all splits: name, number of videos, and Prec@1 of each stream and fused (0 of no videos)."""
    totals = total_matrices(results)
    videos = totals["fused"].sum(1)
    prec1 = pd.DataFrame({name: 100.0 * matrix.diagonal() / np.maximum(videos, 1) for name, matrix in totals.items()})
    return list(zip(results[0].classes, videos.tolist(), prec1.to_dict("records"), strict=True))


def mean_and_std(results: Sequence[SplitResult], name: str) -> tuple[list[float], list[float]]:
    """Mean and sample standard deviation (n − 1) over the splits of a stream's Prec@k."""
    values = np.array([result.precisions[name] for result in results])
    return values.mean(0).tolist(), values.std(0, ddof=1).tolist()


def print_split(result: SplitResult) -> None:
    """Table of one split: weight and Prec@k of each stream and fused; then why they may mean little."""
    print(f"\nsplit {result.split}: {len(result.videos)} videos, {len(result.classes)} classes")
    if result.skipped:
        print(f"skipped: {len(result.skipped)} videos that not every stream has ({first_names(result.skipped)})")
    weights = {name: f"{weight:.2f}" for name, weight in result.weights.items()}
    if result.validation:
        chosen = ", ".join(f"{name} {weight}" for name, weight in weights.items())
        prec1, best, videos = (result.validation[key] for key in ("prec1", "best_prec1", "videos"))
        where = f"Prec@1 {prec1:.2f} on the {videos} validation videos, {best:.2f} with the best weights"
        print(f"weights chosen: {chosen} ({where})")
    rows = [(name, weights.get(name, ""), values) for name, values in result.precisions.items()]
    for name, scores in result.without.items():
        rows.append((f"fused without {name}", "", precision(scores, result.labels, result.topk)))
    header = ("", "weight", *(f"Prec@{k}" for k in result.topk))
    print_table(header, [(name, weight, *(f"{value:.2f}" for value in values)) for name, weight, values in rows])
    if 0 < len(result.probabilities) < len(result.weights):
        print(
            f"note: {', '.join(result.probabilities)}: probabilities (each row sums to 1), the others are not; "
            "their mean weighs them unlike, so save logits of all"
        )
    counts = {"test": len(result.videos)} | ({"validation": result.validation["videos"]} if result.validation else {})
    for which, count in counts.items():
        if count < FEW_VIDEOS:
            print(f"note: {count} {which} videos are few: each counts for {100 / count:.1f} points of Prec@1")
    prec1 = {name: values[0] for name, values in result.precisions.items()}
    fused = prec1.pop("fused")
    best = max(prec1, key=prec1.__getitem__)
    if fused < prec1[best]:
        remedy = "" if result.validation else "; --weights auto chooses weights on validation scores"
        print(f"note: the fusion ({fused:.2f}) is below {best} alone ({prec1[best]:.2f}){remedy}")


def print_mean_and_std(results: Sequence[SplitResult]) -> None:
    """Table of mean and standard deviation over several splits."""
    print(f"\nmean ± standard deviation over the {len(results)} splits")
    rows = []
    for name in results[0].precisions:
        pairs = zip(*mean_and_std(results, name), strict=True)
        rows.append((name, *(f"{mean:.2f} ± {std:.2f}" for mean, std in pairs)))
    print_table(("", *(f"Prec@{k}" for k in results[0].topk)), rows)


def print_classes(results: Sequence[SplitResult]) -> None:
    """Table of each class over all splits: videos, Prec@1 of the streams and fused, what fusing gains on the best."""
    totals = total_matrices(results)
    best = max((name for name in totals if name != "fused"), key=lambda name: np.trace(totals[name]))
    rows = []
    for name, videos, prec1 in class_results(results):
        values = [*(f"{value:.1f}" for value in prec1.values()), f"{prec1['fused'] - prec1[best]:+.1f}"]
        rows.append((name, str(videos), *(values if videos else ["-"] * len(values))))
    print("\nPrec@1 of each class")
    print_table(("class", "videos", *totals, f"fused - {best}"), rows)


def write_split(folder: Path, result: SplitResult, image_folders: Sequence[Path]) -> list[Path]:
    """Write fused scores, confusion matrix, with three streams also without each, and, given folders, the mistakes."""
    scores, mistakes = folder / "fusion_video_preds.pickle", folder / "misclassified.png"
    save_scores(scores, {video.name: row for video, row in zip(result.videos, result.scores["fused"], strict=True)})
    title = f"Fusion of {', '.join(result.paths)}, split {result.split}"
    written = [scores, *write_confusion(folder, result.matrices["fused"], result.classes, title)]
    for name, fused in result.without.items():
        matrix = confusion_matrix(fused.argmax(1), result.labels, len(result.classes))
        less = folder / f"without_{name.replace('/', '-')}"
        written += write_confusion(less, matrix, result.classes, f"{title}, without {name}")
    if not image_folders:
        return written
    wrong, count = int((result.scores["fused"].argmax(1) != result.labels).sum()), len(result.videos)
    title = f"split {result.split}: {wrong} of {count} videos misclassified"
    title += f"; the {MAX_MISTAKES} most confident mistakes" * (wrong > MAX_MISTAKES)
    plot_misclassified(find_mistakes(result, image_folders), mistakes, title)
    return [*written, mistakes]


def write_confusion(folder: Path, matrix: np.ndarray, classes: Sequence[str], title: str) -> list[Path]:
    """Write a confusion matrix (counts, rows are true classes) as conf_matrix.png and .csv; returns the paths."""
    picture, table = folder / "conf_matrix.png", folder / "conf_matrix.csv"
    plot_confusion(matrix, classes, picture, title)
    with atomic_write(table, "w") as file:
        pd.DataFrame(matrix, classes, classes).to_csv(file, index_label="true \\ predicted", lineterminator="\n")
    return [picture, table]


def find_mistakes(result: SplitResult, image_folders: Sequence[Path]) -> list[Mistake]:
    """The most confident mistakes, each with its middle frame from every one of the folders that has it."""
    scores = {name: scores.astype(np.float64) for name, scores in result.scores.items()}
    fused, everyone = scores["fused"], np.arange(len(result.labels))
    probabilities = {name: softmax(values) for name, values in scores.items()}
    confidence = probabilities["fused"].max(1)
    # Where probabilities saturate, the lead over the true class tells which mistake is worse.
    lead = fused.max(1) - fused[everyone, result.labels]
    wrong = np.flatnonzero(fused.argmax(1) != result.labels)
    wrong = wrong[np.lexsort((-lead[wrong], -confidence[wrong]))][:MAX_MISTAKES]
    videos = [result.videos[i] for i in wrong]
    middle = [
        {video: Path(at, FRAME_NAME.format((frames + 1) // 2)) for video, at, frames in index_frames(root, videos)[0]}
        for root in image_folders
    ]
    names = ["fused", *result.weights]
    mistakes = []
    for i, video in zip(wrong, videos, strict=True):
        best = [int(scores[name][i].argmax()) for name in names]
        answers = [
            Answer(name, result.classes[label], float(probabilities[name][i, label]))
            for name, label in zip(names, best, strict=True)
        ]
        images = [at.get(video) for at in middle]
        mistakes.append(Mistake(video.name, video.class_name, answers, images, _frame_size(images)))
    return mistakes


def _frame_size(images: Sequence[Path | None]) -> tuple[int, int] | None:
    """(height, width) of the frames of a video, if keypoints beside one of its images tell it."""
    for image in filter(None, images):
        with contextlib.suppress(UserError):
            return load_keypoints(image.parent / FILE_NAME).frame_size
    return None


def write_summary(path: Path, results: Sequence[SplitResult]) -> None:
    """Write the results as JSON: of each split, of each class, and over several splits mean and std."""

    def named(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(("prec1", "prec3"), values, strict=False))

    summary = {
        "splits": [
            {
                "split": result.split,
                "videos": len(result.videos),
                "skipped": result.skipped,
                "scores": result.paths,
                "weights": result.weights,
                "weights_chosen_on_validation": result.validation,
                "figures": {name: named(values) for name, values in result.precisions.items()},
            }
            for result in results
        ],
        "classes": [
            {"class": name, "videos": videos, "prec1": prec1} for name, videos, prec1 in class_results(results)
        ],
    }
    if len(results) > 1:
        for i, key in enumerate(("mean", "std")):
            summary[key] = {name: named(mean_and_std(results, name)[i]) for name in results[0].precisions}
    with atomic_write(path, "w") as file:
        json.dump(summary, file, indent=2, ensure_ascii=False)
        file.write("\n")
