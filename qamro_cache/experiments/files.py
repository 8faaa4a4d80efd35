"""Small files, whole or not there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qamro_cache.errors import QamroError

#: What qamro-train writes into its folder.
RUN_FILES = ("config.json", "metrics.json", "predictions.csv", "head.safetensors")


def write_text(path: Path, text: str) -> None:
    """Write a text file under another name, with an end of line, and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def refuse_other_run(out: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything but the run of the same arguments and cache.

    Args:
        out: folder.
        asked: what a run depends on; ``config.json`` holds the earlier run's as ``asked``.
    """
    there = [name for name in RUN_FILES if (out / name).exists()]
    if not there:
        return
    try:
        earlier = json.loads((out / "config.json").read_text(encoding="utf-8"))["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        earlier = None
    if earlier == asked:
        return
    what = f"{there[0]} of something else"
    if isinstance(earlier, dict):
        changed = [n for n in {**earlier, **asked} if earlier.get(n) != asked.get(n)]
        what = f"a run that differs in {', '.join(changed)}"
    raise QamroError(f"{out} holds {what}; name another folder, or replace it with --overwrite")


def refuse_file(out: Path) -> None:
    """Refuse an output folder whose name a file has, before the work and not after it."""
    if out.exists() and not out.is_dir():
        raise QamroError(f"{out} is a file; name a folder for the results")
