"""What the people in a pose folder depend on, kept beside them: `pose_settings.json`."""

import json
import os
from pathlib import Path

from common.atomic import atomic_write
from common.cli import UserError

SETTINGS_NAME = "pose_settings.json"


def kept_settings(root: str | os.PathLike) -> dict | None:
    """What is kept in `root`, the folder of pose folders; None if nothing is. Raises `UserError` if it is damaged."""
    path = Path(root, SETTINGS_NAME)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it if all poses there were made alike") from None


def check_settings(root: str | os.PathLike, settings: dict) -> None:
    """Raise `UserError` if the poses in `root` are known to be made with others, so that no run mixes two networks'."""
    before = kept_settings(root)
    if before is None:
        return
    for key, value in settings.items():
        if before.get(key) != value:
            made = f"its poses were made with {key} = {before.get(key)}, now it is {value}"
            raise UserError(f"{root}: {made}; choose another --out, or the same settings")


def keep_settings(root: str | os.PathLike, settings: dict) -> None:
    """Keep the settings of the first poses in `root`, or raise as `check_settings` does if others came before."""
    check_settings(root, settings)
    if kept_settings(root) is None:
        write_settings(root, settings)


def write_settings(root: str | os.PathLike, settings: dict) -> None:
    """Keep the settings of the poses in `root`."""
    with atomic_write(Path(root, SETTINGS_NAME), "w") as file:
        file.write(json.dumps(settings, indent=1) + "\n")
