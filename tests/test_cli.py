"""Command lines: help, argparse types, and how a script ends."""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest

from common import cli
from tests.helpers import ROOT

SCRIPTS = [path.stem for path in sorted(ROOT.glob("*.py")) if '__name__ == "__main__"' in path.read_text("utf-8")]


def name_of(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else action.metavar or action.dest


def help_entries(parser: cli.ArgumentParser) -> dict[str, str]:
    """What --help prints for each argument, on one line, by the argument's (first) name."""
    entries = {}
    for entry in re.split(r"\n  (?=\S)", parser.format_help().split("\n\n", 1)[1]):
        for action in parser._actions:
            if re.match(re.escape(name_of(action)) + r"(\s|,|$)", entry):
                entries[name_of(action)] = " ".join(entry.split("\n\n")[0].split())
    return entries


@pytest.mark.parametrize("script", [*SCRIPTS, "UCF_list.make_lists"])
def test_help_describes_every_option_and_tells_its_default(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    parser = importlib.import_module(script).get_args_parser()
    entries = help_entries(parser)
    for action in parser._actions:
        name, default = name_of(action), action.default
        described = re.sub(r"\(default[^)]*\)", "", action.help or "")
        assert re.search(r"\w{2}", described), f"{name} has no description"
        if default is None or default is False or default in (argparse.SUPPRESS, "", (), []):
            continue
        for value in default if isinstance(default, (list, tuple)) else [default]:
            assert str(value) in entries[name].partition("(default: ")[2], f"{name} does not tell its default {value}"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.whole_number(1), {"1": 1, "012": 12, str(2**31 - 1): 2**31 - 1}, ("0", "-1", "1.0", "", "x", str(2**31))),
        (cli.whole_number(2, 99), {"2": 2, "99": 99}, ("1", "100")),
        (cli.positive, {"1e-3": 0.001, "2": 2.0}, ("0", "-1", "inf", "nan", "x")),
        (cli.image_size, {"368x432": (368, 432), "16×8192": (16, 8192)}, ("12", "15x20", "16x8193", "-16x16", "1x1x1")),
        (cli.shard, {"0/4": "0/4", "01/004": "1/4"}, ("4/4", "-1/4", "1", "1/0", "a/b", "0.5/2")),
    ],
)
def test_values_of_options(kind, good, bad, capsys):
    parser = cli.ArgumentParser()
    parser.add_argument("--value", type=kind)
    for text, value in good.items():
        assert parser.parse_args([f"--value={text}"]).value == value
    for text in bad:
        with pytest.raises(SystemExit) as end:
            parser.parse_args([f"--value={text}"])
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and line.startswith("error: argument --value: ") and repr(text) in line


def test_table(capsys):
    cli.print_table(("video", "Prec@1"), [("a", "9.00"), ("Übung 太極", "100.00")])
    assert capsys.readouterr().out.splitlines() == ["video       Prec@1", "a             9.00", "Übung 太極  100.00"]


@pytest.mark.parametrize(
    ("body", "status", "out", "err"),
    [
        ("print('Übung'); return 3", 3, "\\xdcbung\n", ""),
        ("print('done')", 0, "done\n", ""),
        ("raise cli.UserError('a\\n b: missing')", 2, "", "error: a b: missing\n"),
        ("open('no/where')", 2, "", "error: no/where: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, "", "interrupted\n"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 143, "", ""),
    ],
)
def test_how_a_script_ends(body, status, out, err):
    code = f"import os, signal, time\nfrom common import cli\ndef main():\n    {body}\ncli.run(main)"
    env = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout, finished.stderr) == (status, out, err)


@pytest.mark.parametrize("script", [*SCRIPTS, "UCF_list.make_lists"])
def test_help_ends_with_examples_that_the_parsers_take(script, monkeypatch):
    parser = importlib.import_module(script).get_args_parser()
    for columns in ("80", "120"):
        monkeypatch.setenv("COLUMNS", columns)  # the commands stay as they are
        shown = parser.format_help().partition("\nexamples:\n")[2].partition("\n\n")[0].replace("\\\n", " ")
        commands = [shlex.split(line) for line in shown.splitlines()]
        own = 0
        for python, name, *words in commands:
            if name == "-m":
                name, *words = words
            module = name.removesuffix(".py")
            importlib.import_module(module).get_args_parser().parse_intermixed_args(words)
            own += module == script
            assert python == "python"
        assert own, f"{script} shows no command of its own"
