"""Run a command of the project in this process, and see that a refusal is one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner

_NOTICES = ("WARNING: ", "INFO: ")


def run(command: Any, *arguments: object, words: Sequence[str] = ()) -> tuple[int, str]:
    """Return the exit code and stdout; an AssertionError unless the errors are one line.

    Args:
        command: of click.
        arguments: of it.
        words: that must stand in the line.
    """
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        lines = [line for line in result.stderr.splitlines() if not line.startswith(_NOTICES)]
        errors = [line for line in lines if line.startswith("error: ")]
        assert result.exit_code == 1, f"exit {result.exit_code}: {result.stderr[-500:]}"
        assert len(errors) == 1, f"not one line: {result.stderr[-1500:]}"
        for word in ("Errno", "Traceback", "Error("):
            assert word not in errors[0], errors[0]
        for word in words:
            assert word in errors[0], f"{word!r} is not in {errors[0]!r}"
    return result.exit_code, result.stdout


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def one_line(text: str) -> None:
    """Hold what an error says to one printable line of a length that can be read."""
    assert text, "an error without a word"
    assert len(text) < 500, f"{len(text)} characters: {text[:300]}"
    assert len(text.splitlines()) == 1, f"not one line: {text!r}"
