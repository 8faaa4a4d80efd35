"""Small files, whole or not there."""

from pathlib import Path

from qamro_cache.errors import QamroError


def write_text(path: Path, text: str) -> None:
    """Write a text file under another name, with an end of line, and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def refuse_file(out: Path) -> None:
    """Refuse an output folder whose name a file has, before the work and not after it."""
    if out.exists() and not out.is_dir():
        raise QamroError(f"{out} is a file; name a folder for the results")
