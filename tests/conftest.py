"""Fixtures that several test files use."""

import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers import SHARED, make_tiny, train_script
from tests.pose_fixtures import make_data
from tests.prediction_data import make_predicted

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # `nohup make test &` ignores SIGINT, and so would every script that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = {
    "test_training.py",
    "test_resume.py",
    "test_timeline.py",
    "test_recipe.py",
    "test_distributed.py",
    "test_predict.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real videos and a real pose network beside the checkout."""
    if not (SHARED / "videos").is_dir():
        pytest.skip(f"real data is missing: {SHARED}")
    return SHARED


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of the test processes to ask for it fills; no test changes it."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.made").exists():
            (root / name).mkdir()
            make(root / name)
            (root / f"{name}.made").touch()
    return root / name


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny data set that no test changes."""
    return made_once(tmp_path_factory, "tiny", make_tiny)


@pytest.fixture(scope="session")
def predicted(tmp_path_factory) -> Path:
    """What `make_predicted` makes: videos, checkpoints of three streams, and what the scripts make of them."""
    return made_once(tmp_path_factory, "predicted", make_predicted)


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory) -> Callable[[str], Path]:
    """A function: the record of 2 epochs of a stream, by its name, on `tiny`."""

    def train(stream: str, record: Path) -> None:
        finished = train_script(stream, tiny, record, "--epochs", 2)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count("\n") == 2 and not finished.stderr

    return lambda stream: made_once(tmp_path_factory, f"trained_{stream}", partial(train, stream))


@pytest.fixture
def own_tiny(tiny, tmp_path) -> Path:
    """A copy of it for tests that change it."""
    return Path(shutil.copytree(tiny, tmp_path / "data"))


@pytest.fixture(scope="session")
def posed(tmp_path_factory) -> Path:
    """Frames, a network, and the pose folders that process_pose.py made of them: see `make_data`."""
    pytest.importorskip("onnx")
    return made_once(tmp_path_factory, "posed", make_data)
