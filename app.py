"""A page in the browser: upload a video, or switch the camera on, and see what people do.

pip install -r requirements-app.txt
python app.py --spatial record/spatial/model_best.pth.tar --motion record/motion_pose/model_best.pth.tar
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common.cli import ArgumentParser, UserError, examples, positive, run, whole_number
from dataloader.names import find_videos
from prediction.arguments import add_people_arguments, add_stream_arguments, check_streams, prepare
from utils import catch_stop_signals

MORE = (
    "The page is for this machine alone unless --host says otherwise; it has no password. One video is classified at a "
    "time, others wait. Nothing is sent elsewhere. Ctrl-C ends it and deletes what was uploaded."
)
# Gradio asks its makers for news, and keeps runs in the browser, unless told not to.
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_SHARE": "False"}


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
    add_stream_arguments(parser)
    add_people_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until SIGINT or SIGTERM comes."""
    args = get_args_parser().parse_args(argv)
    check_streams(args)
    examples = [video for path in args.examples for video in find_videos(path).values()]
    temporary = tempfile.TemporaryDirectory(prefix="actions-", ignore_cleanup_errors=True)
    with temporary as folder, catch_stop_signals() as stop:
        os.environ.update(SETTINGS, GRADIO_TEMP_DIR=folder)
        try:
            import gradio
        except ModuleNotFoundError:
            raise UserError("the page needs Gradio: pip install -r requirements-app.txt") from None
        from prediction.page import build_page

        page = build_page(prepare(args, keypoints=False, overlay=True), args, examples, stop)
        page.launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=args.max_megabytes * 10**6,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            theme=gradio.themes.Default(font="system-ui", font_mono="monospace"),  # nothing is fetched from elsewhere
        )
        print(f"open {page.local_url}; Ctrl-C ends it", flush=True)
        while not stop.signum:
            time.sleep(0.1)
        page.close(verbose=False)


if __name__ == "__main__":
    run(main)
