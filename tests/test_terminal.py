"""What a person sees on a terminal: a pseudo-terminal, and a small screen that obeys its codes."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
from qamro_cache_cli.extraction_bar import ExtractionBar
from qamro_cache_cli.training_bar import training_bar

from qamro_cache.extraction.stats import Stats

#: Notices while a bar moves.
SCRIPT = """
import logging, sys, time
from qamro_cache_cli.common import notices_to_stderr
from qamro_cache_cli.training_bar import training_bar
from qamro_cache_cli.extraction_bar import ExtractionBar
from qamro_cache.extraction.stats import Stats

notices_to_stderr()
logger = logging.getLogger("qamro_cache")

def notices(move):
    for k in range(4):
        move(k)
        time.sleep(0.15)
        logger.warning("notice %d of the library", k)
    time.sleep(0.15)

if sys.argv[1] == "training":
    with training_bar() as progress:
        notices(lambda k: progress(k, 8, 5))
else:
    with ExtractionBar() as bar:
        stats = Stats(clips_total=8, started=0.0)
        notices(lambda k: bar.show(stats))
logger.info("after the bar")
"""


def typed(arguments: list[str]) -> str:
    """Run Python with stderr and stdout on a pseudo-terminal; return all that it wrote."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    child = subprocess.Popen(
        [sys.executable, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            try:
                block = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            written += block
    os.close(ours)
    assert child.wait(60) == 0, written.decode()
    return written.decode()


def screens(written: str) -> tuple[list[str], set[str]]:
    """Obey what moves the cursor: the last screen's lines, and every line that ever stood there."""
    lines, row, column, seen = [""], 0, 0, set()
    for code, sign, letter in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|(.)", written, re.DOTALL):
        if letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif letter:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + letter + line[column + 1 :]
            column += 1
            seen.add(lines[row])
        elif sign == "A":
            row = max(0, row - int(code or 1))
        elif sign == "K":
            lines[row] = "" if code == "2" else lines[row][:column]
        else:
            assert sign in "mhl", f"code {sign} is not known to this screen"
    return lines, seen


@pytest.mark.parametrize("bar", ["training", "extraction"])
def test_notices_never_stand_on_the_bars_line(bar):
    lines, seen = screens(typed(["-c", SCRIPT, bar]))
    wanted = [f"WARNING: notice {k} of the library" for k in range(4)]
    found = [line.rstrip() for line in lines if "notice" in line or "after" in line]
    assert found == [*wanted, "INFO: after the bar"]
    moved = [line for line in seen if "heads running" in line or "clips/s" in line]
    assert moved, "there was no bar"
    assert not [line for line in moved if "notice" in line]


@pytest.mark.parametrize("bar", ["training", "extraction"])
def test_a_log_file_has_a_line_now_and_then(bar, monkeypatch, capsys):
    """By a clock of the test's own: eight steps of ten seconds."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stats = Stats(clips_total=8, started=0.0)
    with training_bar() if bar == "training" else ExtractionBar() as shown:
        for k in range(1, 9):
            now[0], stats.clips_done = 10.0 * k, k
            shown(k, 8, 5) if bar == "training" else shown.show(stats)
    said = capsys.readouterr().err.splitlines()
    share = "25 %, 5 heads" if bar == "training" else "2/8 clips"
    assert len(said) == 4
    assert share in said[0]
