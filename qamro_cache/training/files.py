"""Small files, whole or not there."""

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file under another name, with an end of line, and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
