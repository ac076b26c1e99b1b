"""The page of app.py: a video, a long video, or a camera in, what `predict.py` says of it out."""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from common.cli import UserError
from common.optical_flow import Method
from common.video import measure_duration
from dataloader.names import stem
from prediction.arguments import Classifier
from prediction.classify import bars_of, classify, count_frames, describe
from prediction.live import BrowserCamera, describe_pace
from prediction.overlay import Bars, overlay_video
from prediction.page_html import CSS, bars_html
from prediction.timeline import Plan, classify_windows, label_name, least_probability, segments
from prediction.timeline_files import SUFFIXES, describe_timeline, write_timeline
from prediction.timeline_plot import clock
from utils import StopRequest

CLASSES = 5  # that are shown
LEAST_STRIDE = 0.5  # seconds
LIVE_SECONDS = 300  # that a viewer has the camera's place, before the next one's turn
SEND_EVERY = 0.1  # seconds between two frames of a camera
FONTS = ["system-ui", "sans-serif"]  # of the machine: nothing is fetched from elsewhere
FAILURES = (UserError, OSError)


class Limits(NamedTuple):
    """What the page takes and keeps: length and size of a video, how long its files stay, and where (a folder)."""

    seconds: float
    megabytes: int
    minutes: float
    folder: Path


def build_page(classifier: Classifier, limits: Limits, examples: Sequence[Path], stop: StopRequest) -> gr.Blocks:
    """The page, with one tab for each way of classifying, ready for `serve`; `stop` ends what cameras show."""
    if classifier.options.flow:
        options = replace(classifier.options, flow=one_at_a_time(classifier.options.flow))
        classifier = classifier._replace(options=options)
    age = round(60 * limits.minutes)
    with gr.Blocks(title="Action recognition", delete_cache=(min(age, 60), age)) as page:
        gr.Markdown(_about(classifier, limits))
        with gr.Tab("A video"):
            _add_video_tab(classifier, limits, examples)
        with gr.Tab("A long video"):
            _add_timeline_tab(classifier, limits, examples)
        with gr.Tab("Live"):
            _add_live_tab(classifier, stop)
    return page.queue(max_size=20)


def serve(page: gr.Blocks, limits: Limits, host: str, port: int) -> None:
    """Serve the page, in threads of its own, until `page.close`."""
    page.launch(
        server_name=host,
        server_port=port,
        max_file_size=limits.megabytes * 10**6,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        css=CSS,
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
    )


def one_at_a_time(method: Method) -> Method:
    """Optical flow that a video and a camera may ask for at the same time: OpenCV's objects do not bear that."""
    lock = threading.Lock()

    def flows(firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        with lock:
            yield from method(firsts, seconds)

    return flows


def _about(classifier: Classifier, limits: Limits) -> str:
    streams = ", ".join(name.replace("_", " ") for name in classifier.models)
    return (
        f"# What do people do in a video?\nStreams: {streams}; classes: {len(classifier.classes)}. Videos of up to "
        f"{limits.megabytes} MB and {clock(limits.seconds)} minutes, one after the other. They and what is made of "
        f"them are deleted after {limits.minutes:g} minutes."
    )


# ---- tabs ----


def _add_upload(examples: Sequence[Path]) -> gr.File:
    upload = gr.File(label="Video", height=140)
    if examples:
        paths = [str(path.resolve()) for path in examples]
        gr.set_static_paths(paths)  # else they are copied, and the copies deleted as uploads are
        gr.Examples([[path] for path in paths], upload, label="Or one of these")
    return upload


def _add_video_tab(classifier: Classifier, limits: Limits, examples: Sequence[Path]) -> None:
    with gr.Row():
        with gr.Column(min_width=320):
            upload = _add_upload(examples)
            button = gr.Button("Classify", variant="primary")
            answer = gr.HTML(padding=True)
        with gr.Column(min_width=320, scale=2):
            video = gr.Video(show_label=False, autoplay=True, loop=True, interactive=False)

    def answer_video(file: str | None, progress: gr.Progress = gr.Progress(track_tqdm=True)):  # noqa: B008
        with taken(file, limits) as (path, folder):
            progress(0, "testing the streams")
            models, fusion, estimator, options = classifier
            prediction = classify(path, models, estimator, options)
            result, overlay = describe(prediction, fusion), folder / f"{stem(path.name)}-overlay.mp4"
            progress(0.9, "drawing the overlay")
            bars = bars_of(result, CLASSES)
            shown = bars_of(result, 3)
            overlay_video(overlay, path, prediction.poses.people, lambda number: shown, options.frames)
            facts = [path.name, count_frames(result), *filter(None, [result["damage"]])]
            return str(overlay), bars_html(bars, facts)

    _on_click(button, answer_video, [upload], [video, answer], "classify")


def _add_timeline_tab(classifier: Classifier, limits: Limits, examples: Sequence[Path]) -> None:
    plan = Plan()
    with gr.Row():
        with gr.Column(min_width=320):
            upload = _add_upload(examples)
            with gr.Row():
                window = gr.Number(plan.length, label="Window, seconds", min_width=120)
                stride = gr.Number(plan.stride, label="Stride, seconds", min_width=120)
            button = gr.Button("Classify", variant="primary")
        with gr.Column(min_width=320, scale=2):
            shown: dict[str, Any] = {"show_label": False, "buttons": ["fullscreen"], "elem_classes": "timeline"}
            picture = gr.Image(type="filepath", interactive=False, **shown)
            label = "Segments, with the mean probability of their windows"
            table = gr.Dataframe(headers=["Class", "From", "To", "%"], label=label, interactive=False, max_height=400)
            facts = gr.HTML(padding=True)
            files = gr.File(label="Picture, tables and subtitles", file_count="multiple", interactive=False)

    def answer_long_video(
        file: str | None,
        window: float | None,
        stride: float | None,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
    ):
        if min(window or 0, stride or 0) < LEAST_STRIDE:
            raise gr.Error(f"Give window and stride in seconds, {LEAST_STRIDE} or more.", print_exception=False)
        with taken(file, limits) as (path, folder):
            progress(0, "testing the streams on windows")
            models, fusion, estimator, options = classifier
            options = replace(options, every_pose=False)  # nothing is drawn on frames
            windows = classify_windows(path, models, estimator, options, Plan(window, stride), fusion)
            minimum, out = least_probability(fusion), folder / f"{stem(path.name)}.png"
            found = segments(windows, minimum)
            result = describe_timeline(windows, found, fusion)
            write_timeline(out, windows, found, fusion.classes, minimum, path.name)
            rows = [
                [
                    label_name(segment.label, fusion.classes),
                    clock(segment.start, 1),
                    clock(segment.end, 1),
                    "" if np.isnan(segment.probability) else f"{100 * segment.probability:.1f}",
                ]
                for segment in found
            ]
            mean = bars_of(result | {"answer": None}, CLASSES)._replace(notes=result["notes"])
            count = len(windows.spans)
            lines = [path.name, f"{count} window{'s' * (count != 1)}, {count_frames(result)}"]
            html = bars_html(mean, [*lines, *filter(None, [result["damage"]])], "Mean over the windows")
            return str(out), rows, html, [str(out.with_suffix(suffix)) for suffix in SUFFIXES]

    _on_click(button, answer_long_video, [upload, window, stride], [picture, table, facts, files], "timeline")


def _add_live_tab(classifier: Classifier, stop: StopRequest) -> None:
    with gr.Row():
        with gr.Column(min_width=320):
            options = gr.WebcamOptions(mirror=False)  # the streams would see left and right exchanged
            camera = gr.Image(sources=["webcam"], streaming=True, label="Camera", webcam_options=options)
        with gr.Column(min_width=320):
            plan = Plan()
            about = f"the last {plan.length:g} seconds, one viewer at a time, {LIVE_SECONDS // 60} minutes in a row"
            answer = gr.HTML(bars_html(Bars([]), [about], "Start the camera"), padding=True)
    state = gr.State(delete_callback=lambda viewer: viewer and viewer.end())

    def look(rgb: np.ndarray | None, viewer: BrowserCamera | None):
        if rgb is None:
            return gr.skip(), viewer
        if viewer is None or viewer.ended:
            viewer = BrowserCamera(classifier, plan, stop)
        viewer.show(rgb)
        with told():
            news = viewer.news()
        if not news:
            return gr.skip(), viewer
        seen, result, latency = news
        return bars_html(bars_of(result, CLASSES), [describe_pace(seen, result, latency)]), viewer

    camera.stream(
        look,
        [camera, state],
        [answer, state],
        show_progress="hidden",
        stream_every=SEND_EVERY,
        time_limit=LIVE_SECONDS,
        concurrency_limit=1,
        concurrency_id="cameras",
        api_visibility="private",
    )


def _on_click(button: gr.Button, answer: Callable, inputs: list, outputs: list, name: str) -> None:
    """Call `answer` at a click, its progress on the first output; both tabs together classify one video at a time."""
    shared: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "videos"}
    button.click(answer, inputs, outputs, api_name=name, show_progress_on=outputs[0], **shared)


# ---- files ----


@contextlib.contextmanager
def taken(file: str | None, limits: Limits) -> Iterator[tuple[Path, Path]]:
    """Yield an upload, under a name of its own while it is needed, and a new folder for what is made of it.

    Gradio deletes what it shows of that folder as it deletes uploads. What users can mend is shown as its message.
    """
    with told():
        if not file:
            raise UserError("no video yet: upload one first")
        folder = limits.folder / token_hex(16)
        path = folder / Path(file).name
        folder.mkdir()
        try:
            _link(Path(file), path, limits)
            with _named(path):
                seconds = measure_duration(path)
                if seconds > limits.seconds:
                    most = clock(limits.seconds, 1)
                    raise UserError(f"lasts {clock(seconds, 1)}, and {most} is the most; upload a part of it")
                yield path, folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        path.unlink()


def _link(file: Path, path: Path, limits: Limits) -> None:
    try:
        os.link(file, path)
    except FileNotFoundError:
        raise UserError(f"{file.name} is gone after {limits.minutes:g} minutes; upload it again") from None
    except OSError:  # a file system without links
        shutil.copyfile(file, path)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the name of the video before a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what users can mend into a message on the page."""
    try:
        yield
    except FAILURES as error:
        raise gr.Error(str(error), print_exception=False) from None
