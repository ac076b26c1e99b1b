"""Say what people do in videos: frames, poses, both streams and their fusion in one go.

    python predict.py clip.avi --spatial record/spatial/model_best.pth.tar \
        --motion record/motion_pose/model_best.pth.tar --model openpose --pose-weights pose_model.pth
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.atomic import atomic_write
from common.cli import ArgumentParser, UserError, print_table, run, whole_number
from common.parallel import worker_pool
from common.video import decode_frames, frame_rate
from dataloader.names import Video, VideoFolders, normal, stem
from fusion.metrics import fuse, rank_classes, softmax
from pose.estimators import add_estimator_arguments, estimator_from_arguments
from pose.keypoints import FILE_NAME, load_keypoints
from prediction.classify import Answer, Classifier, FrameOptions, classify, load_classifier, require_same_classes
from prediction.overlay import write_overlay
from training.streams import MOTION_POSE, SPATIAL
from utils import pick_device

BARS = 3  # classes in an overlay
MEANING = (
    "logits: the mean of a stream's logit vectors over the test positions, as in the score pickles, or, fused, the "
    "weighted mean of the streams' logits; probabilities: the softmax of those logits, from 0 to 1"
)


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Classify videos with trained streams: decode, find people, test both streams, fuse.",
        epilog="A video is decoded twice, with --overlay three times, so that only a few of its frames are in memory "
        "at once, whatever its length; the 200 or so that the streams look at lie in a temporary folder for "
        "the time, scaled to --short-side. Exit status 1: some videos could not be classified.",
    )
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="video files")
    parser.add_argument("--topk", type=whole_number(1), metavar="K", default=3, help="number of classes to print")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write logits and probabilities of all classes")
    parser.add_argument(
        "--overlay",
        type=Path,
        metavar="FILE.mp4",
        help="write the video, without sound, with skeletons and the three best classes; poses are "
        "then estimated on every frame, otherwise only where the motion stream looks. Several "
        "videos: FILE-NAME.mp4 for each",
    )
    group = parser.add_argument_group("streams, one or both")
    group.add_argument("--spatial", type=Path, metavar="CHECKPOINT", help="written by spatial_cnn_15.py")
    group.add_argument(
        "--motion",
        type=Path,
        metavar="CHECKPOINT",
        help="written by motion_pose_cnn_15.py; needs people, from --model or --keypoints",
    )
    group.add_argument(
        "--weights",
        nargs=2,
        type=float,
        metavar="W",
        help="of the spatial and of the motion stream in the fusion (default: equal)",
    )
    group.add_argument("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="class indices")
    group.add_argument(
        "--class-index",
        metavar="FILE",
        default="classInd15.txt",
        help="class index within --ucf-list, read only if a checkpoint does not name its classes",
    )
    group = parser.add_argument_group("frames, as extract_frames.py made them for training")
    group.add_argument("--every", type=whole_number(1), metavar="N", default=1, help="take frames 1, 1+N, 1+2N, …")
    group.add_argument("--short-side", type=whole_number(1), metavar="PIXELS", default=256, help="size of frames")
    group.add_argument("--quality", type=int, choices=range(1, 101), metavar="1-100", default=95, help="JPEG quality")
    group = parser.add_argument_group("people")
    group.add_argument(
        "--keypoints",
        type=Path,
        metavar="FILE.npz|DIR",
        help="take people from this file, or from DIR/VIDEO/keypoints.npz, instead of estimating them",
    )
    group.add_argument(
        "--max-people",
        type=whole_number(1),
        metavar="N",
        help="keep the N people with the largest sums of scores in each frame",
    )
    add_estimator_arguments(parser)
    parser.set_defaults(model=None)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Classify each video; returns 1 if some could not be."""
    args = get_args_parser().parse_intermixed_args(argv)
    check_arguments(args)
    device = pick_device(args.device)
    class_index = args.ucf_list / args.class_index
    streams = [
        path and load_classifier(path, stream, class_index, device)
        for path, stream in ((args.spatial, SPATIAL), (args.motion, MOTION_POSE))
    ]
    loaded = [stream for stream in streams if stream]
    require_same_classes(loaded)
    estimator = estimator_from_arguments(args) if args.model and (args.motion or args.overlay) else None
    options = FrameOptions(args.every, args.short_side, args.quality)
    results = []
    with worker_pool(0) as pool:
        for path, overlay in zip(args.videos, overlay_paths(args.overlay, args.videos), strict=True):
            result = {"video": str(path), "name": stem(path.name)}
            results.append(result)
            try:
                source = load_keypoints(find_keypoints(args.keypoints, path)) if args.keypoints else estimator
                answer = classify(
                    path,
                    *streams,
                    source,
                    pool,
                    options,
                    every_pose=bool(overlay),
                    max_people=args.max_people,
                    amp=args.amp and device.type == "cuda",
                )
                result.update(describe(answer, loaded, args.weights))
                print_result(result, args.topk)
                if answer.poses.people and not result["frames_with_people"]:
                    print(
                        f"warning: {path}: nobody found in the {result['frames_looked_at']} frames looked at"
                        + "; the motion stream saw black images" * bool(args.motion),
                        file=sys.stderr,
                    )
                if overlay:
                    with contextlib.closing(decode_frames(path, args.every)) as frames:
                        write_overlay(
                            overlay,
                            frames,
                            answer.poses.people,
                            best(result["fused"], BARS),
                            frame_rate(path) / args.every,
                        )
                    result["overlay"] = str(overlay)
                    print(f"  overlay: {overlay}", flush=True)
            except UserError as error:
                result["error"] = " ".join(str(error).split())
    if args.json:
        write_results(args.json, results, loaded, args.weights)
    failed = [result for result in results if "error" in result]
    for result in failed:
        print(f"failed: {result['video']}: {result['error']}", file=sys.stderr)
    return 1 if failed else 0


# ---- arguments ----


def check_arguments(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that do not go together; afterwards no `args.model` means not to estimate."""
    if not args.spatial and not args.motion:
        raise UserError("no stream to classify with; give --spatial CHECKPOINT, --motion CHECKPOINT, or both")
    if args.weights and not (args.spatial and args.motion):
        raise UserError("--weights are for fusing both streams; give --spatial and --motion, or leave it out")
    try:
        fuse([np.zeros(1)] * 2, args.weights)
    except ValueError:
        shown = " ".join(f"{weight:g}" for weight in args.weights)
        raise UserError(f"--weights {shown}: give two numbers >= 0, not both 0") from None
    if args.pose_weights and not args.model:
        args.model = "openpose"  # process_pose.py's default
    if args.keypoints and args.model:
        raise UserError("--keypoints take the place of --model and --pose-weights; leave out one or the other")
    if args.motion and not args.keypoints and not args.model:
        raise UserError("--motion needs people; give --model and --pose-weights to find them, or --keypoints")
    if args.keypoints and not args.keypoints.exists():
        raise UserError(f"--keypoints {args.keypoints}: no such file or folder")
    one_file = args.keypoints and (args.keypoints.is_file() or (args.keypoints / FILE_NAME).is_file())
    if one_file and len(args.videos) > 1:
        raise UserError(
            f"--keypoints {args.keypoints}: one file for {len(args.videos)} videos; give the folder that "
            "holds their pose folders"
        )
    if args.overlay and args.overlay.suffix.lower() != ".mp4":
        raise UserError(f"--overlay {args.overlay}: the overlay is an MP4 video; give a name that ends in .mp4")
    sources = {path.resolve() for path in args.videos}
    for path in (*overlay_paths(args.overlay, args.videos), args.json):
        if path and path.resolve() in sources:
            raise UserError(f"{path}: is one of the videos to classify; choose another name to write to")
        if path and path.is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file to write")


def overlay_paths(file: Path | None, videos: Sequence[Path]) -> list[Path | None]:
    """Where each video's overlay goes: `file`, or `FILE-NAME.mp4` of several videos, numbered if names repeat."""
    if file is None or len(videos) == 1:
        return [file] * len(videos)
    paths = []
    for video in videos:
        name, number = f"{file.stem}-{stem(video.name)}", 1
        path = file.with_name(name + file.suffix)
        while path in paths:
            number += 1
            path = file.with_name(f"{name}-{number}{file.suffix}")
        paths.append(path)
    return paths


def find_keypoints(place: Path, video: Path) -> Path:
    """The keypoints file of a video: `place` itself, or the one in the video's folder below `place`.

    That is called as in the split lists, `VIDEO` or `CLASS/VIDEO`. Raises `UserError` if there is none.
    """
    if not place.is_dir():
        return place
    if (place / FILE_NAME).is_file():
        return place / FILE_NAME
    listed = Video(stem(video.name), 0, normal(video.resolve().parent.name), str(video))
    for folder in VideoFolders(place).of(listed):
        if (place / folder / FILE_NAME).is_file():
            return place / folder / FILE_NAME
    raise UserError(f"no keypoints for it; expected {place / stem(video.name) / FILE_NAME}")


# ---- results ----


def describe(answer: Answer, streams: Sequence[Classifier], weights: Sequence[float] | None) -> dict:
    """The answer in plain values: logits and probabilities by class, of each stream and fused."""
    fused = fuse([answer.logits[stream.stream.name] for stream in streams], weights)
    people = answer.poses.people.values()
    return {
        "frames": answer.num_frames,
        "frames_looked_at": len(people),
        "frames_with_people": sum(len(persons) > 0 for persons in people),
        "damage": answer.damage or None,
        "fused": opinion(fused, streams[0].classes),
        "streams": {
            stream.stream.name: opinion(answer.logits[stream.stream.name], stream.classes) for stream in streams
        },
    }


def opinion(logits: np.ndarray, classes: Sequence[str]) -> dict:
    """Logits and probabilities by class, best first."""
    order = rank_classes(logits[None])[0]
    probabilities = softmax(logits)
    return {
        "logits": {classes[label]: float(logits[label]) for label in order},
        "probabilities": {classes[label]: float(probabilities[label]) for label in order},
    }


def best(opinion: dict, count: int) -> list[tuple[str, float]]:
    """The most probable classes with their probabilities."""
    return list(opinion["probabilities"].items())[:count]


def print_result(result: dict, topk: int) -> None:
    """Print the fused top k with every stream's probabilities, and the streams' own favourites."""
    people = (
        f", people in {result['frames_with_people']} of the {result['frames_looked_at']} looked at"
        if result["frames_looked_at"]
        else ""
    )
    print(f"\n{result['video']}: {result['frames']} frame{'s' * (result['frames'] != 1)}{people}")
    if result["damage"]:
        print(f"  {result['damage']}")
    streams = result["streams"]
    columns = {"fused": result["fused"], **streams} if len(streams) > 1 else streams
    print_table(
        ("probability, %", *columns),
        [
            (f"  {name}", *(f"{100 * column['probabilities'][name]:.1f}" for column in columns.values()))
            for name, _ in best(result["fused"], topk)
        ],
    )
    for stream, says in streams.items() if len(streams) > 1 else ():
        favourites = ", ".join(f"{name} {100 * value:.1f}" for name, value in best(says, topk))
        print(f"  {stream} alone: {favourites}")
    sys.stdout.flush()


def write_results(
    path: Path, results: Sequence[dict], streams: Sequence[Classifier], weights: Sequence[float] | None
) -> None:
    """Write everything as JSON: what the numbers are, the streams, and one object per video."""
    shares = np.ones(len(streams)) if weights is None else np.array(weights)
    content = {
        "meaning": MEANING,
        "classes": streams[0].classes,
        "streams": {
            stream.stream.name: {
                "checkpoint": str(stream.path),
                "arch": stream.arch,
                "image_size": stream.image_size,
                "weight": float(share / shares.sum()),
            }
            for stream, share in zip(streams, shares, strict=True)
        },
        "videos": results,
    }
    with atomic_write(path) as file:  # names of files may not be valid Unicode
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    run(main)
