"""How good an answer for each person is, and what it costs: clips of known people together in one picture.

Prints Markdown tables. DATA holds videos, list, pose_flow and record, by benchmarks.jhmdb and benchmarks.systems.

python -m benchmarks.persons runs/jhmdb
python -m benchmarks.persons runs/jhmdb --splits 01 --pictures 20 --pose-weights movenet.onnx
python -m benchmarks.persons runs/jhmdb --splits 01 --cost 3 --pose-weights movenet.onnx
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import predict
from common.cli import ArgumentParser, UserError, run, whole_number
from common.records import FrameSettings
from common.video import frames_of, write_mp4
from dataloader.names import Video, find_videos
from dataloader.split_train_test_video import read_split
from pose.estimators import make_estimator
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints, people_of_frame
from pose.people import follow_people, select_people
from prediction.classify import Classifier, prepare, score_windows
from prediction.persons import MAX_GAP, Persons, classify_persons, persons_of
from prediction.timeline import Plan
from training.resume import CHECKPOINT
from training.streams import MOTION_POSE, SKELETON, Stream, Window

RATE = Fraction(30)  # frames a second of JHMDB's clips
PAIR, GRID = (2, 1), (3, 2)  # columns and rows of a picture of two clips, and of six
SIZES = {PAIR: (192, 512), GRID: (256, 512)}  # of a pose network's input that is large enough for these people
Answers = dict[str, list[int | None]]  # classes, in the order of clips, by where these are


def get_args_parser() -> ArgumentParser:
    """Command line of this benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of videos, list, pose_flow and record")
    add("--splits", nargs="+", metavar="NN", default=["01", "02", "03"], help="numbers of the lists")
    text = "folder of a split's checkpoints; {data} and {split} are replaced (default: %(default)s)"
    add("--record", metavar="DIR", default="{data}/record/split{split}-seed0", help=text)
    add("--seed", type=whole_number(0), metavar="N", default=0, help="of who is beside whom")
    add("--pictures", type=whole_number(1), metavar="N", help="so many pairs of each split from pictures as well")
    add("--cost", type=whole_number(1), metavar="N", help="time one clip and six from pictures, N times each")
    add("--pose-weights", type=Path, metavar="FILE", help="MoveNet, for what is from pictures")
    return parser


class Clip(NamedTuple):
    """A test video and its people."""

    video: Video
    keypoints: Keypoints


def clips_of(data: Path, split: str) -> list[Clip]:
    """The clips of a test list."""
    tests = read_split(data / "list", split, "classInd.txt").test
    return [Clip(video, load_keypoints(data / "pose_flow" / video.name / FILE_NAME)) for video in tests]


def pairs_of(clips: Sequence[Clip], seed: int) -> list[list[Clip]]:
    """Each clip with one of another class, once, both as long as the shorter one."""
    left = [clips[index] for index in np.random.default_rng(seed).permutation(len(clips))]
    pairs = []
    while left:
        first = left.pop()
        for index in [i for i, clip in enumerate(left) if clip.video.label != first.video.label][-1:]:
            pair = first, left.pop(index)
            length = min(clip.keypoints.num_frames for clip in pair)
            cut = [select_people(people, people.frame <= length) for _, people in pair]
            pairs.append([Clip(v, replace(k, num_frames=length)) for (v, _), k in zip(pair, cut, strict=True)])
    return pairs


def together(
    pair: Sequence[Clip], places: Sequence[np.ndarray | float] = (0, 1), width: float = 2
) -> tuple[Keypoints, np.ndarray]:
    """Clips of one length in a picture `width` times as wide, and from which of them each person is, int64 (P,).

    `places` of their left edges, one or (num_frames,) each, are in widths of a clip as well.
    """
    clips, people = [clip.keypoints for clip in pair], []
    for clip, place in zip(clips, places, strict=True):
        moved = clip.keypoints.copy()
        moved[..., 0] = (moved[..., 0] + np.broadcast_to(place, clip.num_frames)[clip.frame - 1, None]) / width
        people.append(moved * (moved[..., 2:] > 0))
    frame = np.concatenate([clip.frame for clip in clips])
    order = np.argsort(frame, kind="stable")
    owner = np.repeat(np.arange(len(clips)), [len(clip.frame) for clip in clips])[order]
    size = clips[0].frame_size[0], round(clips[0].frame_size[1] * width)
    return Keypoints(np.concatenate(people)[order], frame[order], clips[0].num_frames, size), owner


def write_grid(path: Path, files: Sequence[Path | None], grid: tuple[int, int]) -> None:
    """Write videos as one of so many columns and rows, as long as the shortest; None leaves a place empty."""
    videos = [list(frames_of(file, FrameSettings(short_side=None))) if file else None for file in files]
    empty = np.full_like(next(video[0] for video in videos if video), 128)
    length = min(len(video) for video in videos if video)
    tiles = np.array([video[:length] if video else [empty] * length for video in videos])
    tiles = tiles.reshape(grid[1], grid[0], *tiles.shape[1:]).transpose(2, 0, 3, 1, 4, 5)  # frame, row, y, column, x
    write_mp4(path, map(Image.fromarray, tiles.reshape(length, grid[1] * tiles.shape[2], -1, 3)), RATE)


def load(record: Path, streams: Sequence[Stream]) -> Classifier:
    """The streams of a record, without what finds people."""
    options = {SKELETON: "--skeleton", MOTION_POSE: "--motion"}
    given = [text for stream in streams for text in (options[stream], str(record / stream.name / CHECKPOINT))]
    args = predict.get_args_parser().parse_args(["x.mp4", "--per-person", "--device", "cpu", *given])
    return prepare(args, keypoints=True, overlay=False)


def measure(pairs: Sequence[Sequence[Clip]], classifier: Classifier) -> Answers:
    """The answers for all clips by themselves, for the main person of each alone, and side by side."""
    windows = [window_of(clip.keypoints) for pair in pairs for clip in pair]
    alone = [persons_of(window, classifier, Plan(), RATE) for window in windows]
    pictures = [persons_of(window_of(together(pair)[0]), classifier, Plan(), RATE) for pair in pairs]
    return {
        "by themselves": [winner(logits) for logits in score_windows(windows, classifier)],
        "main person alone": [answer for persons in alone for answer in answers_of(persons, 1)],
        "side by side": [answer for persons in pictures for answer in answers_of(persons, 2)],
    }


def measure_pictures(pairs: Sequence[Sequence[Clip]], classifier: Classifier, videos: Path, weights: Path) -> Answers:
    """The answers side by side from pictures, by the size of the pose network's input."""
    files, answers = find_videos(videos), {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.mp4") for number in range(len(pairs))]
        for path, pair in zip(paths, pairs, strict=True):
            write_grid(path, [files[f"v_{clip.video.name}"] for clip in pair], PAIR)
        for name, size in (("pictures", None), ("pictures, input of 192x512", SIZES[PAIR])):
            looking = classifier._replace(people=make_estimator("onnx", weights, "cpu", input_size=size))
            found = [classify_persons(path, looking, Plan()) for path in paths]
            answers[name] = [answer for persons in found for answer in answers_of(persons, 2)]
    return answers


def answers_of(persons: Persons, columns: int) -> list[int | None]:
    """The answer for the main person of each of so many equal columns of a picture."""
    answers: dict[int, int | None] = {}
    for person in persons.found:
        x = np.mean([place[place[:, 2] > 0, 0].mean() for place in person.path.values()])
        answers.setdefault(int(x * columns), winner(person.timeline.whole.logits))
    return [answers.get(column) for column in range(columns)]


def winner(logits: Mapping[str, np.ndarray]) -> int | None:
    """The likeliest class of the skeleton stream, if anybody was in view."""
    return int(logits[SKELETON.name].argmax()) if logits else None


def window_of(keypoints: Keypoints) -> Window:
    """The people of a video as a window of all its frames."""
    people = {frame: people_of_frame(keypoints, frame) for frame in range(1, keypoints.num_frames + 1)}
    return Window(keypoints.num_frames, {}, people, keypoints.frame_size)


def sets_of(clips: Sequence[Clip], seed: int) -> Iterator[tuple[str, list[tuple[Keypoints, np.ndarray]]]]:
    """Clips that show one person at a time together in pictures, ever closer, and who is who."""
    alone = [clip for clip in clips if len(clip.keypoints.frame) == len(np.unique(clip.keypoints.frame)) > 0]
    pairs = pairs_of(alone, seed)
    for name, place in {"side by side": 1, "half over each other": 0.5, "three quarters": 0.25}.items():
        yield name, [together(pair, (0, place), 1 + place) for pair in pairs]
    yield "crossing", [together(pair, (1, np.linspace(0, 2, pair[0].keypoints.num_frames)), 3) for pair in pairs]


def count_mistakes(tracks: np.ndarray, owner: np.ndarray) -> Counter:
    """Of people in the order of time: `switches` of their tracks, further tracks of one, and tracks of several."""
    own = [tracks[owner == person] for person in np.unique(owner)]
    several = [track for track in np.unique(tracks) if len(np.unique(owner[tracks == track])) > 1]
    switches = sum(int((one[1:] != one[:-1]).sum()) for one in own)
    return Counter(switches=switches, fragments=sum(len(np.unique(one)) - 1 for one in own), several=len(several))


def print_tracks(clips: Sequence[Clip], seed: int) -> None:
    """Print how often `follow_people` takes one for another, and the time that it takes."""
    print("\n| two clips | pairs | switches | fragments | tracks of both | ms a frame |\n| --- |" + " ---: |" * 5)
    for name, pictures in sets_of(clips, seed):
        counts, start = Counter(switches=0, fragments=0, several=0), time.process_time()
        tracks = [follow_people(keypoints, MAX_GAP) for keypoints, _ in pictures]
        spent = 1000 * (time.process_time() - start) / sum(keypoints.num_frames for keypoints, _ in pictures)
        for each, (_, owner) in zip(tracks, pictures, strict=True):
            counts.update(count_mistakes(each, owner))
        print(f"| {name} | {len(pictures)} | {' | '.join(map(str, counts.values()))} | {spent:.2f} |", flush=True)


def print_cost(clips: Sequence[Clip], record: Path, videos: Path, weights: Path, repeat: int) -> None:
    """Print the processor time of one clip and of six, which show one person in every frame, in videos of one size."""
    steady = [clip for clip in clips if np.array_equal(clip.keypoints.frame, np.arange(clip.keypoints.num_frames) + 1)]
    files, count = find_videos(videos), GRID[0] * GRID[1]
    paths = [files[f"v_{c.video.name}"] for c in sorted(steady, key=lambda c: -c.keypoints.num_frames)[:count]]
    estimator = make_estimator("onnx", weights, "cpu", input_size=SIZES[GRID])
    print("| streams | clips | people found | seconds | without finding people |\n| --- |" + " ---: |" * 4)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder, "grid.mp4")
        for streams, number in product(((SKELETON,), (SKELETON, MOTION_POSE)), (1, count)):
            classifier, spent = load(record, streams)._replace(people=estimator), []
            write_grid(video, [*paths[:number], *[None] * (count - number)], GRID)
            for _ in range(repeat):
                times = [time.process_time()]
                persons = classify_persons(video, classifier, Plan())
                times.append(time.process_time())
                persons_of(persons.window, classifier, Plan(), RATE)
                spent.append(np.diff([*times, time.process_time()]))
            seconds = " | ".join(f"{value:.2f}" for value in np.min(spent, axis=0))
            names = " + ".join(stream.name for stream in streams)
            print(f"| {names} | {number} | {len(persons.found)} | {seconds} |", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Measure what the options ask for."""
    args = get_args_parser().parse_args(argv)
    if (args.pictures or args.cost) and not args.pose_weights:
        raise UserError("--pictures, --cost: need --pose-weights FILE")
    torch.set_num_threads(1)
    clips = {split: clips_of(args.data, split) for split in args.splits}
    videos = args.data / "videos"
    for number, (split, of_split) in enumerate(clips.items()):
        record = Path(args.record.replace("{data}", str(args.data)).replace("{split}", split))
        if args.cost:
            print_cost(of_split, record, videos, args.pose_weights, args.cost)
            continue
        pairs, classifier = pairs_of(of_split, args.seed)[: args.pictures], load(record, [SKELETON])
        answers = measure(pairs, classifier)
        if args.pictures:
            answers |= measure_pictures(pairs, classifier, videos, args.pose_weights)
        if number == 0:
            print(f"| Prec@1 | clips | {' | '.join(answers)} |\n| --- |" + " ---: |" * (len(answers) + 1))
        labels = np.array([clip.video.label for pair in pairs for clip in pair])
        cells = [f"{100 * np.mean(labels == np.array(each, object)):.1f}" for each in answers.values()]
        print(f"| {split} | {len(labels)} | {' | '.join(cells)} |", flush=True)
    if not (args.pictures or args.cost):
        everyone = {clip.video.name: clip for of_split in clips.values() for clip in of_split}
        print_tracks(list(everyone.values()), args.seed)


if __name__ == "__main__":
    run(main)
