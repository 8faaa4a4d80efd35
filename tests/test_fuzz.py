"""A short run of every fuzzer, and a fuzzer of each kind of failure that must be noticed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz import harness
from fuzz.harness import Door, doors, run_door

SCRIPT = Path(__file__).with_name("fuzz")


@pytest.mark.parametrize("name", sorted(doors()))
def test_hostile_files_are_refused_or_read_right(name: str) -> None:
    cases = "40" if name == "done" else "150"
    command = [sys.executable, SCRIPT, name, "--cases", cases, "--seed", "7", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused" in done.stdout


def _hang() -> None:
    while True:
        pass


def _wait() -> None:
    while True:
        time.sleep(0.01)


def _wrong() -> None:
    raise AssertionError("another figure")


@pytest.mark.parametrize(
    ("outcome", "act"),
    [
        ("crash", lambda: os.kill(os.getpid(), signal.SIGKILL)),
        ("hang", _hang),
        ("hang", _wait),
        ("memory", lambda: bytearray(3 << 30)),
        ("wrong", _wrong),
        ("traceback", lambda: {}["x"]),
    ],
)
def test_what_a_fuzzer_must_notice(
    outcome: str, act: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "SECONDS", 1)
    monkeypatch.setattr(harness, "CLOCK_SECONDS", 1 if act is _wait else 60)

    def case(_: object, choose: object, place: Path) -> str:
        (place / "number").write_text("")
        if choose.random() < 0.3:  # type: ignore[attr-defined]
            act()  # type: ignore[operator]
        return "refused"

    door = Door("made up", lambda folder: None, lambda folder: None, case)
    report = run_door(door, 8, seed=3)
    assert sum(report.outcomes.values()) == 8
    assert report.outcomes[outcome] == len(report.failures) > 0
    assert report.outcomes["refused"] == 8 - len(report.failures)
    # A case is told by its number alone.
    first = report.failures[0]["case"]
    again = run_door(door, 1, seed=3, first=first)
    assert again.outcomes == {outcome: 1}
