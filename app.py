"""A page in the browser: upload a video, or switch the camera on, and see what people do.

pip install -r requirements-app.txt
python app.py --spatial record/spatial/model_best.pth.tar --motion record/motion_pose/model_best.pth.tar
python app.py --per-person --skeleton record/skeleton/model_best.pth.tar
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.cli import ArgumentParser, UserError, examples, positive, run, whole_number
from common.video import duration
from dataloader.names import find_videos, stem
from prediction.classify import (
    NOBODY_IN_VIEW,
    Classifier,
    add_prediction_arguments,
    classify,
    count_frames,
    describe,
    looking_for_people,
    prepare,
    table_of,
    top_classes,
)
from prediction.live import Captured, Watcher
from prediction.overlay import bars_of, draw_heads, write_overlay, write_people_overlay
from prediction.persons import (
    classify_persons,
    describe_persons,
    heads_of,
    rows_of_persons,
    write_persons_timeline,
    write_windows,
)
from prediction.timeline import (
    SUFFIXES,
    Plan,
    classify_windows,
    clock,
    describe_timeline,
    rows_of_segments,
    write_timeline,
)
from utils import catch_stop_signals

# Gradio asks its makers for news, and keeps runs in the browser, unless told not to before it is imported.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", GRADIO_SHARE="False")
with contextlib.suppress(ModuleNotFoundError):  # `main` says so: the help needs no Gradio
    import gradio as gr

MORE = (
    "The page is for this machine alone unless --host says otherwise; it has no password. One video is classified at a "
    "time, others wait. Nothing is sent elsewhere. Ctrl-C ends it and deletes what was uploaded."
)
CLASSES = 5  # that are shown
LEAST_STRIDE = 0.5  # seconds
LIVE_SECONDS = 300  # that a viewer has the camera's place, before the next one's turn
ONE_VIDEO: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "videos"}  # both tabs together
NOTES: dict[str, Any] = {"label": "Notes", "interactive": False, "max_lines": 8}
PERSON_HEADERS = ["person", "from", "to", "answer", "%"]
SEND_EVERY = 0.1  # seconds between two frames of a camera


def get_args_parser() -> ArgumentParser:
    """Command line of app.py."""
    parser = ArgumentParser(
        description="A page in the browser that classifies videos and a camera.", epilog=examples(__doc__, MORE)
    )
    add = parser.add_argument
    add("--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen at; 0.0.0.0: the whole network's")
    add("--port", type=whole_number(1, 65535), help="port to listen at (default: the first free one from 7860)")
    add("--examples", nargs="+", type=Path, metavar="FILE|DIR", default=[], help="videos to try, or folders of some")
    add("--max-seconds", type=positive, metavar="N", default=600, help="length of a video")
    add("--max-megabytes", type=whole_number(1), metavar="N", default=200, help="size of a video")
    text = "how long uploads and results are kept; a result is shown no longer than that"
    add("--keep-minutes", type=positive, metavar="N", default=30, help=text)
    add_prediction_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until SIGINT or SIGTERM comes."""
    args = get_args_parser().parse_args(argv)
    if "gr" not in globals():
        raise UserError("the page needs Gradio: pip install -r requirements-app.txt")
    args.examples = [str(video.resolve()) for path in args.examples for video in find_videos(path).values()]
    classifier = prepare(args, keypoints=False, overlay=True)
    temporary = tempfile.TemporaryDirectory(prefix="actions-", ignore_cleanup_errors=True)
    with temporary as folder, catch_stop_signals() as stop:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(classifier, args)
        page.queue(max_size=20).launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=args.max_megabytes * 10**6,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            theme=gr.themes.Default(font="system-ui", font_mono="monospace"),  # nothing is fetched from elsewhere
        )
        print(f"open {page.local_url}; Ctrl-C ends it", flush=True)
        while not stop.signum:
            time.sleep(0.1)
        page.close(verbose=False)


# ---- the page ----


def build_page(classifier: Classifier, args: argparse.Namespace) -> Any:
    """The page, `gr.Blocks`: one tab for each way of classifying."""
    gr.set_static_paths(args.examples)  # else they are copied, and the copies deleted as uploads are
    age = round(60 * args.keep_minutes)
    with gr.Blocks(title="Action recognition", delete_cache=(min(age, 60), age)) as page:
        gr.Markdown(
            f"# What do people do in a video?\nStreams: {', '.join(classifier.models)}; "
            f"{len(classifier.fusion.classes)} classes. Videos of up to {args.max_megabytes} MB and "
            f"{clock(args.max_seconds)} minutes, one after the other. They and their results are deleted after "
            f"{args.keep_minutes:g} minutes."
        )
        if classifier.options.per_person:
            with gr.Tab("A video"), gr.Row():
                add_people_tab(classifier, args)
        else:
            with gr.Tab("A video"), gr.Row():
                add_video_tab(classifier, args)
            with gr.Tab("A long video"), gr.Row():
                add_timeline_tab(classifier, args)
        with gr.Tab("Live"), gr.Row():
            add_live_tab(classifier)
    return page


def add_video_tab(classifier: Classifier, args: argparse.Namespace) -> None:
    """Overlay and answer of a video."""
    headers = ["%", *classifier.models]
    with gr.Column(min_width=320):
        upload, button = add_upload(args.examples)
        answer, notes = gr.Label(label="Answer"), gr.Textbox(**NOTES)
    with gr.Column(min_width=320, scale=2):
        video = gr.Video(label="Overlay", autoplay=True, loop=True, interactive=False)
        scores = gr.Dataframe(headers=headers, label="Probabilities", interactive=False)

    def classify_video(file: str | None, progress: Any = gr.Progress(track_tqdm=True)) -> tuple:  # noqa: B008
        with opened(file, args.max_seconds) as (path, folder):
            progress(0, "testing the streams")
            prediction = classify(path, classifier)
            result, overlay = describe(prediction, classifier.fusion), folder / f"{stem(path.name)}-overlay.mp4"
            progress(0.9, "drawing the overlay")
            bars = repeat(bars_of(result, 3))
            write_overlay(overlay, path, prediction.window.people, bars, classifier.options.frames)
            return str(overlay), answer_of(result), *scores_of(result, path.name, count_frames(result))

    outputs = [video, answer, scores, notes]
    button.click(classify_video, upload, outputs, api_name="classify", show_progress_on=video, **ONE_VIDEO)


def add_timeline_tab(classifier: Classifier, args: argparse.Namespace) -> None:
    """Timeline of a long video."""
    headers = ["%", *classifier.models]
    # Nothing is drawn on frames.
    classifier = classifier._replace(options=replace(classifier.options, every_pose=False))
    upload, button, length, stride, notes = add_windows_upload(args.examples)
    with gr.Column(min_width=320, scale=2):
        picture = gr.Image(type="filepath", show_label=False, interactive=False, buttons=["fullscreen"])
        label = "Segments, with the mean probability of their windows"
        table = gr.Dataframe(headers=["class", "from", "to", "%"], label=label, interactive=False, max_height=400)
        scores = gr.Dataframe(headers=headers, label="Mean probabilities of the windows", interactive=False)
        files = gr.File(label="Picture, tables and subtitles", file_count="multiple", interactive=False)

    def classify_long_video(
        file: str | None,
        length: float | None,
        stride: float | None,
        progress: Any = gr.Progress(track_tqdm=True),  # noqa: B008
    ) -> tuple:
        with opened(file, args.max_seconds) as (path, folder):
            progress(0, "testing the streams on windows")
            windows = classify_windows(path, classifier, plan_of(length, stride))
            result, out = describe_timeline(windows, classifier.fusion), folder / f"{stem(path.name)}.png"
            write_timeline(out, windows, path.name)
            written = [str(out.with_suffix(suffix)) for suffix in SUFFIXES]
            facts = f"windows: {len(windows.spans)}; {count_frames(result)}"
            return str(out), rows_of_segments(result["segments"]), written, *scores_of(result, path.name, facts)

    inputs, outputs = [upload, length, stride], [picture, table, files, scores, notes]
    button.click(classify_long_video, inputs, outputs, api_name="timeline", show_progress_on=picture, **ONE_VIDEO)


def add_people_tab(classifier: Classifier, args: argparse.Namespace) -> None:
    """What each person of a video does, and when."""
    upload, button, length, stride, notes = add_windows_upload(args.examples)
    with gr.Column(min_width=320, scale=2):
        video = gr.Video(label="Overlay", autoplay=True, loop=True, interactive=False)
        picture = gr.Image(type="filepath", show_label=False, interactive=False, buttons=["fullscreen"])
        table = gr.Dataframe(headers=PERSON_HEADERS, label="Everyone's answer", interactive=False)
        file = gr.File(label="Table of all windows", interactive=False)

    def classify_people(
        uploaded: str | None,
        length: float | None,
        stride: float | None,
        progress: Any = gr.Progress(track_tqdm=True),  # noqa: B008
    ) -> tuple:
        with opened(uploaded, args.max_seconds) as (path, folder):
            progress(0, "finding people")
            persons = classify_persons(path, classifier, plan_of(length, stride))
            result, out = describe_persons(persons, classifier.fusion), folder / f"{stem(path.name)}.csv"
            write_windows(out, result)
            progress(0.9, "drawing the overlay")
            overlay, bands = out.with_suffix(".mp4"), out.with_suffix(".png")
            write_people_overlay(overlay, path, heads_of(persons), classifier.options.frames)
            if persons.found:
                write_persons_timeline(bands, persons, path.name)
            shown = str(bands) if persons.found else None
            return str(overlay), shown, str(out), *everyone_of(result, path.name, count_frames(result))

    inputs, outputs = [upload, length, stride], [video, picture, file, table, notes]
    button.click(classify_people, inputs, outputs, api_name="people", show_progress_on=video, **ONE_VIDEO)


def add_live_tab(classifier: Classifier) -> None:
    """What the browser's camera shows; Gradio gives the newest frame each time, and skips others."""
    if not looking_for_people(classifier.models):
        classifier = classifier._replace(people=None)  # who would be found for nothing
    each, plan = classifier.options.per_person, Plan()
    headers = PERSON_HEADERS if each else ["%", *classifier.models]
    with gr.Column(min_width=320):
        options = gr.WebcamOptions(mirror=False)  # the streams would see left and right exchanged
        camera = gr.Image(sources=["webcam"], streaming=True, label="Camera", webcam_options=options)
    with gr.Column(min_width=320):
        last = f"The last {plan.length:g} seconds"
        answer = gr.Image(label=last, interactive=False) if each else gr.Label(label=last)
        label = f"One viewer at a time, {LIVE_SECONDS // 60} minutes in a row"
        scores = gr.Dataframe(headers=headers, label=label, interactive=False)
        notes = gr.Textbox(**NOTES)
    state = gr.State()

    def look(rgb: np.ndarray | None, watcher: Watcher | None) -> tuple:
        watcher, seen = watcher or Watcher(classifier, plan), None
        with messages():
            seen = watcher.news()
            if rgb is not None:
                watcher.see(Captured(time.monotonic(), lambda: rgb))
        told = everyone_of if each else scores_of
        shown = told(seen.result, seen.pace) if seen else [gr.skip()] * 2
        if each:
            first = gr.skip() if rgb is None else np.asarray(draw_heads(rgb, watcher.heads))
        else:
            first = answer_of(seen.result) if seen else gr.skip()
        return first, *shown, watcher

    camera.stream(
        look,
        [camera, state],
        [answer, scores, notes, state],
        show_progress="hidden",
        stream_every=SEND_EVERY,
        time_limit=LIVE_SECONDS,
        concurrency_limit=1,
        api_visibility="private",
    )


def add_upload(examples: list[str]) -> tuple:
    """Where a video is chosen, and the button."""
    upload = gr.File(label="Video", height=140)
    if examples:
        gr.Examples([[path] for path in examples], upload, label="Or one of these")
    return upload, gr.Button("Classify", variant="primary")


def add_windows_upload(examples: list[str]) -> tuple:
    """The left side of what is classified by windows: where a video is chosen, the button, length, stride, notes."""
    with gr.Column(min_width=320):
        upload, button = add_upload(examples)
        length = gr.Number(Plan().length, label="Window, seconds", minimum=LEAST_STRIDE)
        stride = gr.Number(Plan().stride, label="Stride, seconds", minimum=LEAST_STRIDE)
        notes = gr.Textbox(**NOTES)
    return upload, button, length, stride, notes


def plan_of(length: float | None, stride: float | None) -> Plan:
    """The windows that the fields ask for; a field may be empty."""
    return Plan(length or Plan().length, stride or Plan().stride)


# ---- answers ----


def answer_of(result: dict) -> dict[str, float] | str:
    """A `describe`d result for `gr.Label`: the most probable classes, or that it is none of them."""
    if result["answer"] is None:
        return "none of these" if result["fused"]["probabilities"] else NOBODY_IN_VIEW
    return dict(top_classes(result["fused"], CLASSES))


def scores_of(result: dict, *facts: str) -> tuple[pd.DataFrame, str]:
    """Percentages of the most probable classes, fused and of each stream; lines with reasons to doubt and `facts`."""
    columns, rows = table_of(result, CLASSES)
    return pd.DataFrame(rows, columns=["%", *columns]), _notes_of(result, facts)


def everyone_of(result: dict, *facts: str) -> tuple[pd.DataFrame, str]:
    """Everyone's answer of a `describe_persons` result; lines with notes and `facts`."""
    return pd.DataFrame(rows_of_persons(result), columns=PERSON_HEADERS), _notes_of(result, facts)


def _notes_of(result: dict, facts: Sequence[str]) -> str:
    return "\n".join(filter(None, [*result["notes"], *facts, result["damage"]]))


# ---- files ----


@contextlib.contextmanager
def opened(file: str | None, most: float) -> Iterator[tuple[Path, Path]]:
    """Yield an upload of at most `most` seconds and a new folder for its results; Gradio deletes these as uploads."""
    if not file:
        raise gr.Error("no video yet: upload one first", print_exception=False)
    path = Path(file)
    with messages(f"{path.name}: "):
        seconds = duration(path)
        if seconds > most:
            raise UserError(f"lasts {clock(seconds, 1)}, and {clock(most, 1)} is the most; upload a part of it")
        yield path, Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]))


@contextlib.contextmanager
def messages(prefix: str = "") -> Iterator[None]:
    """Turn what users can mend into a message on the page."""
    try:
        yield
    except (UserError, OSError) as error:
        raise gr.Error(f"{prefix}{getattr(error, 'strerror', None) or error}", print_exception=False) from None


if __name__ == "__main__":
    run(main)
