"""Say what people do in videos: frames, poses, the streams and their fusion in one go.

python predict.py clip.avi --spatial record/spatial/model_best.pth.tar \\
    --motion record/motion_pose/model_best.pth.tar --overlay clip_seen.mp4
python predict.py match.mp4 --timeline match.png \\
    --skeleton record/skeleton/model_best.pth.tar
python predict.py yard.mp4 --per-person --overlay yard_seen.mp4 --csv yard.csv \\
    --skeleton record/skeleton/model_best.pth.tar
python predict.py --live 0 --csv seen.csv \\
    --spatial record/spatial/model_best.pth.tar
"""

import argparse
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

from common.cli import ArgumentParser, UserError, examples, positive, print_first, run, whole_number
from dataloader.names import Video, folder_names, normal, stem
from pose.keypoints import FILE_NAME, load_keypoints
from prediction.classify import (
    Classifier,
    add_prediction_arguments,
    classify,
    describe,
    prepare,
    print_result,
    write_results,
)
from prediction.live import run_live
from prediction.overlay import bars_of, write_overlay, write_parts, write_people_overlay
from prediction.persons import (
    classify_persons,
    describe_persons,
    heads_of,
    print_persons,
    write_persons_timeline,
    write_windows,
)
from prediction.timeline import (
    SUFFIXES,
    Plan,
    bars_of_frames,
    classify_windows,
    describe_timeline,
    print_segments,
    write_timeline,
)
from training.streams import SKELETON

MORE = (
    "A video is decoded twice, with --timeline once, with --overlay once more, so that only a few of its frames are in "
    "memory at once. The answer is always one of the classes that the streams were trained on, unless it is less "
    "probable than --threshold: then it is none of these. --live handles the newest frame, skips what comes meanwhile "
    "and resamples each window to the streams' rate of training (--fps, or 25 / --every); Ctrl-C ends it, status 0. "
    "Exit status 1: some videos could not be classified."
)
BARS = 3  # classes in an overlay


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    description = "Classify videos with trained streams: decode, find people, test the streams, fuse."
    parser = ArgumentParser(description=description, epilog=examples(__doc__, MORE))
    add = parser.add_argument
    add("videos", nargs="*", type=Path, metavar="VIDEO", help="video files")
    add("--topk", type=whole_number(1), metavar="K", default=3, help="number of classes to print")
    add("--json", type=Path, metavar="FILE", help="write logits and probabilities of all classes")
    text = "write a silent video with skeletons, on every frame, and the 3 best classes; of several: FILE-NAME.mp4"
    add("--overlay", type=Path, metavar="FILE.mp4", help=text)
    text = (
        "write a picture of which parts spoke for the best class of the skeleton stream, and when; of several videos:"
    )
    add("--parts", type=Path, metavar="FILE.png", help=text + " FILE-NAME.png")
    text = "take people from this file, or from DIR/VIDEO/keypoints.npz, instead of estimating them"
    add("--keypoints", type=Path, metavar="FILE.npz|DIR", help=text)
    add = parser.add_argument_group("what happens when, in a long video or before a camera").add_argument
    text = "write a picture of the classes over time, and windows and segments as .csv, .json and subtitles (.srt); of "
    add("--timeline", type=Path, metavar="FILE.png", help=text + "several videos: FILE-NAME.png")
    text = "in place of videos: a camera (0, /dev/video0), an address (rtsp://…, http://…), or a file at its own speed"
    add("--live", metavar="SOURCE", help=text)
    text = "length of a window, tested as a video is"
    add("--window", type=positive, metavar="SECONDS", default=Plan().length, help=text)
    text = "from the start of a window to the next one's"
    add("--stride", type=positive, metavar="SECONDS", default=Plan().stride, help=text)
    text = (
        "with --live: append a line with the probabilities of all classes for each window; with --per-person: a line "
        "for each window of a person; of several videos: FILE-NAME.csv"
    )
    add("--csv", type=Path, metavar="FILE.csv", help=text)
    add_prediction_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Classify each video; returns 1 if some could not be."""
    args = get_args_parser().parse_intermixed_args(argv)
    check_arguments(args)
    classifier = prepare(args, bool(args.keypoints), bool(args.overlay))
    if args.live:
        run_live(args.live, classifier, Plan(args.window, args.stride), args.topk, args.csv)
        return 0
    results = [{"video": str(path), "name": stem(path.name)} for path in args.videos]
    for number, result in enumerate(results):
        try:
            classify_video(number, classifier, args, result)
        except UserError as error:
            result["error"] = " ".join(str(error).split())
    if args.json:
        write_results(args.json, results, classifier)
    failed = [f"failed: {result['video']}: {result['error']}" for result in results if "error" in result]
    print_first(failed, f"all in {args.json}" if args.json else "--json FILE would name all")
    return 1 if failed else 0


def classify_video(number: int, classifier: Classifier, args: argparse.Namespace, result: dict) -> None:
    """Classify a video of `args`, whole or by windows, print what is found into `result`, and write what is asked."""
    path = args.videos[number]
    outputs = {name: output_paths(vars(args)[name], args.videos) for name in ("timeline", "overlay", "parts", "csv")}
    outputs = {name: paths[number] for name, paths in outputs.items() if paths}
    if args.keypoints:
        classifier = classifier._replace(people=load_keypoints(find_keypoints(args.keypoints, path)))
    if args.per_person:
        answer_for_each(path, classifier, args, result, outputs)
    else:
        answer_for_all(path, classifier, args, result, outputs)
    for name, file in outputs.items():
        result[name] = str(file)
        print(f"  {name}: {file}", flush=True)


def answer_for_all(
    path: Path, classifier: Classifier, args: argparse.Namespace, result: dict, outputs: dict[str, Path]
) -> None:
    """Classify a video whole or by windows; `outputs` keeps what is written."""
    fusion, frames = classifier.fusion, classifier.options.frames
    if args.timeline:
        windows = classify_windows(path, classifier, Plan(args.window, args.stride))
        prediction, bars = windows.whole, bars_of_frames(windows, BARS)
        result.update(describe_timeline(windows, fusion))
        print_result(result, args.topk)
        write_timeline(outputs["timeline"], windows, path.name)
        print_segments(result["segments"])
    else:
        prediction = classify(path, classifier)
        result.update(describe(prediction, fusion))
        bars = repeat(bars_of(result, BARS))
        print_result(result, args.topk)
    if args.overlay:
        write_overlay(outputs["overlay"], path, prediction.window.people, bars, frames)
    if args.parts and (logits := prediction.logits.get(SKELETON.name)) is not None:
        model = classifier.models[SKELETON.name]
        write_parts(outputs["parts"], path, prediction.window.keypoints, model, int(logits.argmax()), frames)
    elif args.parts:
        del outputs["parts"]


def answer_for_each(
    path: Path, classifier: Classifier, args: argparse.Namespace, result: dict, outputs: dict[str, Path]
) -> None:
    """Classify each person of a video; `outputs` keeps what is written."""
    persons = classify_persons(path, classifier, Plan(args.window, args.stride))
    result.update(describe_persons(persons, classifier.fusion))
    print_persons(result)
    if args.overlay:
        write_people_overlay(outputs["overlay"], path, heads_of(persons), classifier.options.frames)
    if args.csv:
        write_windows(outputs["csv"], result)
    if args.timeline and persons.found:
        write_persons_timeline(outputs["timeline"], persons, path.name)
    else:
        outputs.pop("timeline", None)


# ---- arguments ----


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, or that would write over a video."""
    if bool(args.live) == bool(args.videos):
        raise UserError("give either videos to classify or --live SOURCE")
    for name in filter(vars(args).get, ("json", "overlay", "parts", "timeline", "keypoints") if args.live else ()):
        raise UserError(f"--{name} does not go with --live SOURCE")
    if args.csv and not (args.live or args.per_person):
        raise UserError(f"--csv {args.csv}: needs --live SOURCE or --per-person")
    if args.parts and (args.timeline or args.per_person or not args.skeleton):
        raise UserError(f"--parts {args.parts}: is of whole videos and --skeleton CHECKPOINT")
    pictures = [path.with_suffix(suffix) for path in output_paths(args.timeline, args.videos) for suffix in SUFFIXES]
    files = [path for file in (args.overlay, args.parts, args.csv) for path in output_paths(file, args.videos)]
    for path in filter(None, [*files, *pictures, args.json]):
        if path.is_dir() or path.resolve() in map(Path.resolve, args.videos):
            raise UserError(f"{path}: is a folder or one of the videos to classify; give another file to write")


def output_paths(file: Path | None, videos: Sequence[Path]) -> list[Path]:
    """Where each video's output goes: `file`, or `FILE-NAME.mp4` of several videos, numbered if names repeat."""
    if file is None or len(videos) == 1:
        return [file] if file else []
    names = [stem(video.name) for video in videos]
    repeated = [names[:place].count(name) for place, name in enumerate(names)]
    ends = (f"-{name}" + f"-{count + 1}" * (count > 0) for name, count in zip(names, repeated, strict=True))
    return [file.with_name(file.stem + end + file.suffix) for end in ends]


def find_keypoints(source: Path, video: Path) -> Path:
    """The keypoints file of a video: `source`, or one in `source` or in its folder `VIDEO` or `CLASS/VIDEO`."""
    if not source.is_dir():
        return source
    listed = Video(stem(video.name), 0, normal(video.resolve().parent.name), str(video))
    for folder in ("", *folder_names(listed)):
        if (source / folder / FILE_NAME).is_file():
            return source / folder / FILE_NAME
    raise UserError(f"no keypoints for it; expected {source / stem(video.name) / FILE_NAME}")


if __name__ == "__main__":
    run(main)
