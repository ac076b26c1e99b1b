"""Every command of the README and of the pages in docs/ is one that its script understands."""

import importlib
import re
import shlex

import pytest

from tests.helpers import ROOT

VARIABLES = {
    "OWN": "--ucf-list my_lists --split 01 --class-index classInd.txt --val-list vallist01.txt",
    "SPLIT": "--split 01 --class-index classInd.txt",
    "STREAMS": "--spatial record/spatial/model_best.pth.tar --motion record/motion_pose/model_best.pth.tar",
    "SLURM_ARRAY_TASK_ID": "3",
    **{"class": "Archery", "i": "0", "seed": "0", "split": "01"},
}


def commands() -> list[str]:
    """The lines of the pages' code blocks that start a script, joined where they are broken, without comments."""
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M) + re.findall(r"((?:^ {4}.*\n)+)", text, re.M)
    blocks += [f"{command}\n" for command in re.findall(r"`((?:python|torchrun) [^`]+)`", text)]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    starts = (re.search(r"(python|torchrun) .*", line) for line in lines)
    return sorted({start[0] for start in starts if start})


def expanded(command: str) -> list[str]:
    """The words of a command: variables have values, what stands for more options, jobs and comments is cut."""
    command = re.split(r"\s+#|\s&|;|'\)?$", command)[0].replace("…", "")
    return shlex.split(re.sub(r"\$(\w+)", lambda name: VARIABLES[name[1]], command))


def test_there_are_commands():
    scripts = {word for command in commands() for word in command.split() if word.endswith(".py")}
    tops = {path.name for path in ROOT.glob("*_15.py")} | {"average_fusion.py", "predict.py", "extract_frames.py"}
    assert len(commands()) > 15 and tops <= scripts


@pytest.mark.parametrize("command", commands())
def test_command(command):
    words = expanded(command)
    if "-m" in words[:2]:
        module, arguments = words[2], words[3:]
    else:
        place = next(i for i, word in enumerate(words) if word.endswith(".py"))
        assert (ROOT / words[place]).is_file()
        module, arguments = words[place].removesuffix(".py").replace("/", "."), words[place + 1 :]
    if module in ("benchmarks.imagenet_weights", "benchmarks.ut_interaction", "benchmarks.yolo_shape"):  # no options
        return
    parser = importlib.import_module(module).get_args_parser()
    parser.parse_intermixed_args(arguments)  # ends the test if an option is unknown or a value is odd
