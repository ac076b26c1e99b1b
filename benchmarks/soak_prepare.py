"""Kill the scripts that prepare data at random moments, start them again, and compare what they leave.

    python -m benchmarks.soak_prepare --kills 30

Each of three steps (frames, poses by a tiny network, poses from keypoints) runs once undisturbed. Then it runs
again and again into another folder and gets SIGKILL, alone or with its workers, at random moments, until it has
been killed that often. After each kill every folder that can be seen must be whole: as in the undisturbed run, or
as it was before the step. Whenever a run gets to its end, and after the last kill, the whole tree must be equal,
file by file. Takes some minutes; pytest does not collect it.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.pose_fixtures import save_frames, save_network
from tests.test_extract_frames import make_video, picture

ROOT = Path(__file__).resolve().parent.parent


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by relative path, without the temporary ones of killed runs."""
    names = {path: path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for path, name in names.items()
        if not any(part.startswith(".tmp-") for part in name.parts)
    }


def videos_of(files: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """The files of a tree by the folder that they lie in."""
    folders: dict[str, dict[str, bytes]] = {}
    for name, content in files.items():
        folders.setdefault(str(Path(name).parent), {})[name] = content
    return folders


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Names of files that are missing, not expected or of other content."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def run_to_end(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds until the first file of an undisturbed run appears and until it ends."""
    before, first = set(out.rglob("*")) if out.exists() else set(), None
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if first is None and out.exists() and set(out.rglob("*")) - before:
            first = time.monotonic() - start
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"the undisturbed run ended with {process.returncode}: {' '.join(command)}")
    return first or 0, time.monotonic() - start


def wait_for_group(group: int) -> None:
    """Wait until no process of the group is left, at most 20 s."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise SystemExit("workers of a killed run are still there after 20 s")


def look_at(found: dict, initial: dict, folders: dict) -> tuple[list[str], int]:
    """Visible folders of a killed run that are neither as before nor finished, and how many are finished."""
    torn, whole = [], 0
    for folder, files in found.items():
        if folder == ".":  # single files may be missing, but not half written
            files = {file: content for file, content in files.items() if not file.startswith(".")}
            torn += [file for file, content in files.items() if folders.get(".", {}).get(file) != content]
        elif not Path(folder).name.startswith("."):
            whole += files == folders.get(folder)
            if files not in (folders.get(folder), initial.get(folder)):
                torn.append(folder)
    return torn, whole


def soak(name: str, command: list[str], start: Path, work: Path, kills: int, generator: random.Random) -> None:
    """Kill `command`, which writes to the folder {out} that starts as a copy of `start`, `kills` times."""
    reference, out = work / f"{name}-reference", work / name
    shutil.copytree(start, reference)
    startup, seconds = run_to_end([part.format(out=reference) for part in command], reference)
    initial, expected = videos_of(tree(start)), tree(reference)
    folders = videos_of(expected)
    killed = finished = groups = kept = 0
    while True:
        fresh = not out.exists()
        if fresh:
            shutil.copytree(start, out)
        begin = time.monotonic()
        process = subprocess.Popen(
            [part.format(out=out) for part in command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            last = killed >= kills
            moment = None if last else generator.uniform(0.7 * min(startup, seconds), seconds)
            _, errors = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            whole_group = generator.random() < 0.5
            (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
            groups += whole_group
            torn, whole = look_at(videos_of(tree(out)), initial, folders)
            kept += whole
            if torn:
                raise SystemExit(f"{name}: after kill {killed}, {torn[0]} is neither old nor whole") from None
            continue
        if fresh:  # the machine may be faster now than it was
            seconds = min(seconds, time.monotonic() - begin)
        wait_for_group(process.pid)
        if process.returncode:
            raise SystemExit(f"{name}: a run ended with {process.returncode}: {errors.decode()}")
        finished += 1
        wrong = differences(tree(out), expected)
        if wrong:
            raise SystemExit(f"{name}: after {killed} kills {len(wrong)} files differ, the first is {wrong[0]}")
        shutil.rmtree(out)
        if last:
            break
    print(
        f"{name}: {killed} kills ({groups} of them of all processes at once), {kept} finished folders seen after "
        f"them; {finished} runs to the end, each equal to the undisturbed one in all {len(expected)} files",
        flush=True,
    )


def main() -> None:
    """Make tiny data in a temporary folder and soak the three steps on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of each step (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--only", choices=("frames", "poses", "redraw"), help="only this step")
    args = parser.parse_args()
    generator = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        work = Path(temporary)
        empty = work / "empty"
        empty.mkdir()
        pictures = [picture(i, 160, 120) for i in range(30)]
        for i in range(6):
            make_video(work / f"videos/{'AB'[i % 2]}/v_clip {i}.avi", pictures=pictures)
        for name in "AB":
            make_video(work / f"videos/{name}/twin.avi", pictures=pictures)
        frames = [sys.executable, str(ROOT / "extract_frames.py"), str(work / "videos"), "{out}", "--workers", "2"]
        for i in range(8):
            colors = [(255 * (j % 3 > 0), 255 * (j % 2), 8 * i) for j in range(40)]
            save_frames(work / "images" / f"v_clip {i}", colors)
        network = save_network(work / "pose.onnx")
        poses = [
            sys.executable,
            str(ROOT / "process_pose.py"),
            "--frames",
            str(work / "images"),
            "--out",
            "{out}",
            "--model",
            "onnx",
            "--pose-weights",
            str(network),
        ]
        if args.only in (None, "frames"):
            soak("frames", frames, empty, work, args.kills, generator)
        if args.only in (None, "poses"):
            soak("poses", poses, empty, work, args.kills, generator)
        if args.only in (None, "redraw"):
            keypoints = work / "keypoints"
            run_to_end([part.format(out=keypoints) for part in poses], keypoints)
            for image in keypoints.rglob("*.jpg"):
                image.unlink()
            redraw = [sys.executable, str(ROOT / "process_pose.py"), "--out", "{out}", "--from-keypoints"]
            soak("redraw", redraw, keypoints, work, args.kills, generator)


if __name__ == "__main__":
    main()
