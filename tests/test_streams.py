"""What the commands print, wherever it goes: encodings, full disks, closed pipes, odd names."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from qamro_cache_cli.common import (
    LONGEST_LINE,
    OneLine,
    fail,
    notices_to_stderr,
    printable,
    short,
)
from qamro_cache_cli.extract import main as extract
from qamro_cache_cli.tables import show_table

from qamro_cache.errors import QamroError

NAME = "Qualit\u00e4t[/x]\x1b[2J\udce9"


def run(
    arguments: list[str], folder: Path, stdout: int = subprocess.PIPE, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    code = "from qamro_cache_cli.extract import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
        check=False,
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "[red]m.csv"
    path.write_text(
        "clip_id,path,system,Qualit\u00e4t[/x]\n"
        + "".join(f"[/x]{i},{i}.wav,[red]\u00e9{i % 2},{1 + i % 5}\n" for i in range(4))
    )
    return path


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_table_in_any_encoding(manifest: Path, encoding: str) -> None:
    done = run(
        ["--manifest", str(manifest), "--dry-run"], manifest.parent, PYTHONIOENCODING=encoding
    )
    assert done.returncode == 0, done.stderr
    assert b"Qualit" in done.stdout
    assert b"[/x]" in done.stdout
    assert b"[red]m" in done.stdout


def test_stdout_that_is_full_closed_or_gone(manifest: Path) -> None:
    arguments = ["--manifest", str(manifest), "--dry-run"]
    with Path("/dev/full").open("wb") as full:
        done = run(arguments, manifest.parent, stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"error: No space left on device"
    assert b"Traceback" not in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = run(arguments, manifest.parent, stdout=write)
    os.close(write)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_files_of_the_work(manifest: Path, closed: str) -> None:
    """What a library prints must not go into the first file that is opened."""
    code = """
import os, sys
from qamro_cache_cli.common import OneLine, wrapped
import click
@click.command(cls=OneLine)
def main():
    with open("out", "wb") as file:
        file.write(wrapped("data").encode())
        file.flush()
        os.write(2, b"a warning of a decoder")
        click.echo("said", err=True)
main()
"""
    (manifest.parent / "code.py").write_text(code)
    line = f"{sys.executable} code.py {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=manifest.parent, check=False)
    assert done.returncode == 0
    assert (manifest.parent / "out").read_bytes() == b"data"


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.mkdir('x'); os.chdir('x'); os.rmdir('../x'); sys.argv[1:] = "
        "['--dataset', 'demo', '--encoder', 'mel', '--out', 'e.h5', '--device', 'cuda:99']; "
        "from qamro_cache_cli.extract import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the working folder is gone")


def test_no_name_is_markup_or_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([NAME, "n"], [[NAME, "[red]1"]], title=NAME)
    shown = capsys.readouterr().out
    assert shown.count("[/x]") == 3
    assert "[red]1" in shown
    assert "\x1b" not in shown
    assert "\\udce9" in shown


@pytest.mark.parametrize("text", ["x" * 10**6, "\x1b" * 10**6, "\udce9" * 501, "a\nb" * 300])
def test_an_error_is_a_line_that_can_be_read(text: str) -> None:
    line = short(f"start {text} do this")
    assert len(line) <= LONGEST_LINE < 500
    assert line.isprintable()
    assert line.startswith("start ")
    assert line.endswith(" do this")
    assert short("short") == "short"
    assert short(short(line)) == short(line)


def test_errors_and_notices_are_short(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail("x" * 5000)
    logger = logging.getLogger("qamro_cache")
    before = logger.handlers[:]
    notices_to_stderr()
    logger.warning("%s changed", "y" * 5000)
    logger.handlers[:] = before

    @click.command(cls=OneLine)
    def command() -> None:
        raise QamroError("z" * 5000 + "\x1b[2J")

    with pytest.raises(SystemExit):
        command([])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(len(line) < 500 and line == printable(line) for line in lines)


def test_a_file_with_a_very_long_cell_is_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"clip_id,path,q\nb,b.wav,3\na,a.wav,{'x' * 60000}\n")
    result = CliRunner().invoke(extract, ["--manifest", str(path), "--dry-run"])
    assert result.exit_code == 1
    assert len(result.stderr) < 500
    assert result.stderr.rstrip().endswith("(--axis of qamro-extract and qamro-train)")


@pytest.mark.parametrize(
    "option", ["--dtype", "--batch-size", "--shard", "--device", "--encoder", "--dataset", "--"]
)
def test_what_was_typed_wrong_is_told_in_a_short_line(tmp_path: Path, option: str) -> None:
    (tmp_path / "m.csv").write_text("clip_id,path\na,a.wav\n")
    known = ["--manifest", str(tmp_path / "m.csv"), "--out", str(tmp_path / "e.h5")]
    result = CliRunner().invoke(
        extract, [*known, "--encoder", "mel", f"{option}=" + "\x1bx" * 3000]
    )
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    assert max(map(len, result.output.splitlines())) < 500
