"""Scores of several streams: matched to a test list, weighted by what validation videos say."""

from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from common.cli import UserError
from dataloader.names import Video, first_names, listed_names
from dataloader.split_train_test_video import Split
from fusion.metrics import fuse
from fusion.scores import load_scores


def stream_names(paths: Sequence[str]) -> list[str]:
    """A short name for each pickle; folders are added where file names repeat."""
    plain = [str(Path(path).with_suffix("")).removesuffix("_video_preds") for path in paths]
    for depth in range(1, 5):
        names = ["/".join(Path(name).parts[-depth:]) for name in plain]
        if len(set(names) - {"fused"}) == len(paths):
            return names
    return [f"{Path(name).name} #{i}" for i, name in enumerate(plain, 1)]


def load_table(path: str, videos: Sequence[Video], source: str, classes: int) -> dict[str, np.ndarray]:
    """The scores of a pickle under the names of the list `source`, one per class for each of its `videos` or fewer."""
    table = load_scores(path, videos)
    size = len(next(iter(table.values())))
    if size != classes:
        raise UserError(
            f"{path}: {size} scores per video where the class index names {classes} classes; "
            "give the --class-index that the stream was trained with"
        )
    matched: dict[str, np.ndarray] = {}
    unknown = []
    for key, name in listed_names(table, videos).items():
        if name in matched:
            raise UserError(f"{path}: {key!r} is there in two spellings; remove one")
        if name is None:
            unknown.append(key)
        else:
            matched[name] = table[key]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of its {len(table)} videos are not in {source} ({first_names(unknown)}); "
            "give the --split and --class-index that belong to it"
        )
    return matched


def stack_scores(
    tables: Sequence[dict], videos: Sequence[Video], paths: Sequence[str], source: str, skip_missing: bool
) -> tuple[list[Video], list[np.ndarray]]:
    """The `videos` that every table has, and each table's scores (videos, classes).

    Without `skip_missing`, raises `UserError` unless every table has all of the `videos`.
    """
    for table, path in zip(tables, paths, strict=True):
        missing = [video.name for video in videos if video.name not in table]
        if missing and not skip_missing:
            raise UserError(
                f"{path}: no scores for {len(missing)} of the {len(videos)} videos of {source} "
                f"({first_names(missing)}); test that stream again, or skip them with --skip-missing"
            )
    videos = [video for video in videos if all(video.name in table for table in tables)]
    if not videos:
        raise UserError(f"{', '.join(paths)}: no video of {source} is in all of them; fuse scores of one test list")
    return videos, [np.stack([table[video.name] for video in videos]) for table in tables]


def weights_from_validation(paths: Sequence[str], split: Split, skip_missing: bool) -> tuple[tuple[float, ...], dict]:
    """Weights chosen on validation scores, and how: `prec1` there, `best_prec1` of any weights, `videos`, `paths`.

    Labels come from the validation list if the split has one, else from the training list.
    """
    listed, source = (split.val, "the validation list") if split.val else (split.train, "the training list")
    for path in paths:
        if not Path(path).is_file():
            raise UserError(
                f"{path}: no validation scores; train with --val-groups, or give --val-scores "
                "(weights are never chosen on test scores)"
            )
    tables = [load_table(path, listed, source, len(split.classes)) for path in paths]
    held_out = [video for video in listed if any(video.name in table for table in tables)]
    videos, scores = stack_scores(tables, held_out, paths, "the validation set", skip_missing)
    weights, prec1, best = choose_weights(scores, np.array([video.label for video in videos]))
    return weights, {"prec1": prec1, "best_prec1": best, "videos": len(videos), "paths": list(paths)}


def choose_weights(streams: Sequence[np.ndarray], labels: np.ndarray) -> tuple[tuple[float, ...], float, float]:
    """The most even weights whose Prec@1 on validation videos is within one standard error of the best.

    `streams`: scores (N, classes) each, `labels` (N,). The standard error of the best accuracy p on n videos is
    sqrt(p (1 - p) / n); it counts as one video at least, since for p = 1 it is 0 however few videos there are.
    Taking the best weights themselves fits the noise of a small validation set. Returns the weights (sum 1),
    their Prec@1 and that of the best weights, in percent.
    """
    even = (1 / len(streams),) * len(streams)  # thirds and sevenths are not on the grid
    steps = 20 if len(streams) <= 3 else 10 if len(streams) <= 5 else 5
    candidates = (even, *weight_grid(len(streams), steps))
    hits = {weights: int((fuse(streams, weights).argmax(1) == labels).sum()) for weights in candidates}
    best = max(hits.values())
    margin = max(1.0, (best * (1 - best / len(labels))) ** 0.5)
    close = [weights for weights in hits if hits[weights] >= best - margin]
    chosen = min(close, key=lambda weights: (round(sum(weight**2 for weight in weights), 9), -hits[weights]))
    return chosen, 100 * hits[chosen] / len(labels), 100 * best / len(labels)


def weight_grid(streams: int, steps: int) -> Iterable[tuple[float, ...]]:
    """All weights that are multiples of 1/steps and sum up to 1."""
    for bars in combinations(range(steps + streams - 1), streams - 1):
        yield tuple((after - before - 1) / steps for before, after in pairwise((-1, *bars, steps + streams - 1)))
