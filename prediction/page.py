"""The page of app.py: a video, a long video, or a camera in, what `predict.py` says of it out."""

import contextlib
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from common.cli import UserError
from common.video import duration
from dataloader.names import stem
from prediction.classify import Classifier, bars_of, classify, count_frames, describe, top_classes
from prediction.live import BrowserCamera, describe_pace
from prediction.overlay import write_overlay
from prediction.timeline import SUFFIXES, Plan, classify_windows, clock, describe_timeline, write_timeline
from utils import StopRequest

CLASSES = 5  # that are shown
LEAST_STRIDE = 0.5  # seconds
LIVE_SECONDS = 300  # that a viewer has the camera's place, before the next one's turn
SEND_EVERY = 0.1  # seconds between two frames of a camera
ONE_VIDEO: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "videos"}  # both tabs together
ONE_CAMERA: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "cameras"}


def build_page(classifier: Classifier, args: Namespace, examples: Sequence[Path], stop: StopRequest) -> gr.Blocks:
    """The page by the options of app.py, one tab for each way of classifying; `stop` ends what cameras show."""
    paths = [str(path.resolve()) for path in examples]
    gr.set_static_paths(paths)  # else they are copied, and the copies deleted as uploads are
    age = round(60 * args.keep_minutes)
    with gr.Blocks(title="Action recognition", delete_cache=(min(age, 60), age)) as page:
        classes = len(classifier.fusion.classes)
        gr.Markdown(
            f"# What do people do in a video?\nStreams: {', '.join(classifier.models)}; {classes} classes. "
            f"Videos of up to {args.max_megabytes} MB and {clock(args.max_seconds)} minutes, one after the other. "
            f"They and their results are deleted after {args.keep_minutes:g} minutes."
        )
        with gr.Tab("A video"):
            _add_video_tab(classifier, args.max_seconds, paths)
        with gr.Tab("A long video"):
            _add_timeline_tab(classifier, args.max_seconds, paths)
        with gr.Tab("Live"):
            _add_live_tab(classifier, stop)
    return page.queue(max_size=20)


# ---- tabs ----


def _add_video_tab(classifier: Classifier, most: float, examples: list[str]) -> None:
    with gr.Row():
        with gr.Column(min_width=320):
            upload, button = _add_upload(examples)
            answer, notes = gr.Label(label="Answer"), _add_notes()
        with gr.Column(min_width=320, scale=2):
            video = gr.Video(label="Overlay", autoplay=True, loop=True, interactive=False)
            scores = _add_scores(classifier, "Probabilities")

    def classify_video(file: str | None, progress: gr.Progress = gr.Progress(track_tqdm=True)):  # noqa: B008
        with opened(file, most) as (path, folder):
            progress(0, "testing the streams")
            prediction = classify(path, classifier)
            result, overlay = describe(prediction, classifier.fusion), folder / f"{stem(path.name)}-overlay.mp4"
            progress(0.9, "drawing the overlay")
            bars = bars_of(result, 3)
            write_overlay(overlay, path, prediction.window.people, lambda number: bars, classifier.options.frames)
            return str(overlay), answer_of(result), *scores_of(result, path.name, count_frames(result))

    outputs = [video, answer, scores, notes]
    button.click(classify_video, upload, outputs, api_name="classify", show_progress_on=video, **ONE_VIDEO)


def _add_timeline_tab(classifier: Classifier, most: float, examples: list[str]) -> None:
    plan = Plan()
    with gr.Row():
        with gr.Column(min_width=320):
            upload, button = _add_upload(examples)
            with gr.Row():
                window = gr.Number(plan.length, label="Window, seconds", minimum=LEAST_STRIDE, min_width=120)
                stride = gr.Number(plan.stride, label="Stride, seconds", minimum=LEAST_STRIDE, min_width=120)
            notes = _add_notes()
        with gr.Column(min_width=320, scale=2):
            picture = gr.Image(type="filepath", show_label=False, interactive=False, buttons=["fullscreen"])
            label = "Segments, with the mean probability of their windows"
            headers = ["class", "from", "to", "%"]
            table = gr.Dataframe(headers=headers, label=label, interactive=False, max_height=400)
            scores = _add_scores(classifier, "Mean probabilities of the windows")
            files = gr.File(label="Picture, tables and subtitles", file_count="multiple", interactive=False)

    def classify_long_video(
        file: str | None,
        window: float | None,
        stride: float | None,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
    ):
        with opened(file, most) as (path, folder):
            progress(0, "testing the streams on windows")
            options = replace(classifier.options, every_pose=False)  # nothing is drawn on frames
            shown = Plan(window or plan.length, stride or plan.stride)  # a field may be empty
            windows = classify_windows(path, classifier._replace(options=options), shown)
            out = folder / f"{stem(path.name)}.png"
            result = describe_timeline(windows, classifier.fusion)
            write_timeline(out, windows, path.name)
            rows = [
                [part["class"], clock(part["start"], 1), clock(part["end"], 1), percent(part["probability"])]
                for part in result["segments"]
            ]
            facts = f"windows: {len(windows.spans)}; {count_frames(result)}"
            paths = [str(out.with_suffix(suffix)) for suffix in SUFFIXES]
            return str(out), rows, paths, *scores_of(result, path.name, facts)

    inputs, outputs = [upload, window, stride], [picture, table, files, scores, notes]
    button.click(classify_long_video, inputs, outputs, api_name="timeline", show_progress_on=picture, **ONE_VIDEO)


def _add_live_tab(classifier: Classifier, stop: StopRequest) -> None:
    plan = Plan()
    with gr.Row():
        with gr.Column(min_width=320):
            options = gr.WebcamOptions(mirror=False)  # the streams would see left and right exchanged
            camera = gr.Image(sources=["webcam"], streaming=True, label="Camera", webcam_options=options)
        with gr.Column(min_width=320):
            answer = gr.Label(label=f"The last {plan.length:g} seconds")
            scores = _add_scores(classifier, f"One viewer at a time, {LIVE_SECONDS // 60} minutes in a row")
            notes = _add_notes()
    state = gr.State(delete_callback=lambda viewer: viewer and viewer.end())

    def look(rgb: np.ndarray | None, viewer: BrowserCamera | None):
        nothing = [gr.skip()] * 3
        if rgb is None:
            return *nothing, viewer
        if viewer is None or viewer.ended:
            viewer = BrowserCamera(classifier, plan, stop)
        viewer.show(rgb)
        with messages():
            news = viewer.news()
        if not news:
            return *nothing, viewer
        return answer_of(news.result), *scores_of(news.result, describe_pace(news)), viewer

    camera.stream(
        look,
        [camera, state],
        [answer, scores, notes, state],
        show_progress="hidden",
        stream_every=SEND_EVERY,
        time_limit=LIVE_SECONDS,
        api_visibility="private",
        **ONE_CAMERA,
    )


def _add_upload(examples: list[str]) -> tuple[gr.File, gr.Button]:
    upload = gr.File(label="Video", height=140)
    if examples:
        gr.Examples([[path] for path in examples], upload, label="Or one of these")
    return upload, gr.Button("Classify", variant="primary")


def _add_scores(classifier: Classifier, label: str) -> gr.Dataframe:
    return gr.Dataframe(headers=["%", *classifier.models], label=label, interactive=False)


def _add_notes() -> gr.Textbox:
    return gr.Textbox(label="Notes", interactive=False, max_lines=8)


# ---- answers ----


def answer_of(result: dict) -> dict[str, float] | str:
    """A `describe`d result for `gr.Label`: the most probable classes, or that it is none of them."""
    if result["answer"] is None:
        return "none of these" if result["fused"]["probabilities"] else "nobody in view"
    return dict(top_classes(result["fused"], CLASSES))


def scores_of(result: dict, *facts: str) -> tuple[pd.DataFrame, str]:
    """Percentages of the most probable classes, fused and of each stream; lines with reasons to doubt and `facts`."""
    names = [name for name, _ in top_classes(result["fused"], CLASSES)]
    scores = {"fused": result["fused"], **result["streams"]} if len(result["streams"]) > 1 else result["streams"]
    columns = {column: [percent(values["probabilities"][name]) for name in names] for column, values in scores.items()}
    return pd.DataFrame({"%": names} | columns), "\n".join([*result["notes"], *facts, result["damage"] or ""]).strip()


def percent(probability: float | None) -> str:
    """A probability in percent, or nothing."""
    return "" if probability is None else f"{100 * probability:.1f}"


# ---- files ----


@contextlib.contextmanager
def opened(file: str | None, most: float) -> Iterator[tuple[Path, Path]]:
    """Yield an upload of at most `most` seconds, under a name of its own meanwhile, and a new folder for its results.

    Gradio deletes what it shows of that folder as it deletes uploads.
    """
    if not file:
        raise gr.Error("no video yet: upload one first", print_exception=False)
    folder = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]))
    path = folder / Path(file).name
    with messages(f"{path.name}: "):
        os.link(file, path)
        try:
            seconds = duration(path)
            if seconds > most:
                raise UserError(f"lasts {clock(seconds, 1)}, and {clock(most, 1)} is the most; upload a part of it")
            yield path, folder
        finally:
            path.unlink()


@contextlib.contextmanager
def messages(prefix: str = "") -> Iterator[None]:
    """Turn what users can mend into a message on the page."""
    try:
        yield
    except (UserError, OSError) as error:
        raise gr.Error(f"{prefix}{getattr(error, 'strerror', None) or error}", print_exception=False) from None
