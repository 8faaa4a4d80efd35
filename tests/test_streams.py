"""What the commands print, wherever it goes: encodings, full disks, closed pipes, odd names."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
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

from qamro_cache.cache.reader import open_cache
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


#: Where Python reads names of files as ASCII.
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def test_names_of_files_are_utf8_in_any_locale(tmp_path: Path) -> None:
    for place, name in enumerate(("a.wav", "\u00fc.wav")):
        soundfile.write(tmp_path / name, np.full(16000, 0.1 * place), 16000)
    (tmp_path / "m.csv").write_text("clip_id,path\nx,a.wav\n\u00fc,\u00fc.wav\n", encoding="utf-8")
    arguments = ["--manifest", "m.csv", "--encoder", "mel", "--out"]
    done = run([*arguments, "\u00e9.h5"], tmp_path, **ASCII)
    assert done.returncode == 0, done.stderr
    cache = open_cache(tmp_path / "\u00e9.h5")
    assert cache.clips["clip_id"].tolist() == ["x", "\u00fc"]
    assert set(cache.clips["status"]) == {"ok"}


def test_a_program_that_reads_names_as_ascii_is_told_why(tmp_path: Path) -> None:
    """A library does not start its process again."""
    (tmp_path / "au").mkdir()
    soundfile.write(tmp_path / "au" / "\u00fc.wav", np.full(16000, 0.1), 16000)
    code = (
        "from pathlib import Path\n"
        "from qamro_cache.errors import QamroError\n"
        "from qamro_cache.scoring.folder import clips_of_folder\n"
        "try:\n    clips_of_folder(Path('au'))\n"
        "except QamroError as error:\n    print(ascii(str(error)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env=os.environ | ASCII,
        check=False,
    )  # fmt: skip
    assert b"Python reads names of files as ascii here" in done.stdout, done
    assert b"set PYTHONUTF8=1" in done.stdout
