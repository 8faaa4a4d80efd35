"""A short run of every fuzzer, and a fuzzer of each kind of failure that must be noticed."""

import json
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


#: Doors whose cases train something.
SLOW = ["done"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What became of each door's cases: two processes for all, which load everything once."""
    folder = tmp_path_factory.mktemp("fuzz")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = {}
    for names, cases in ((sorted({*doors()} - {*SLOW}), "150"), (SLOW, "40")):
        out = folder / f"{cases}.json"
        command = [sys.executable, SCRIPT, *names, "--cases", cases, "--seed", "7", "--workers"]
        done = subprocess.run(
            [*command, "1", "--out", out], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert out.exists(), done.stdout + done.stderr
        these = json.loads(out.read_text())["doors"]
        assert done.returncode == any(door["failures"] for door in these.values())
        found |= these
    return found


@pytest.mark.parametrize("name", sorted(doors()))
def test_hostile_files_are_refused_or_read_right(
    name: str, found: dict[str, dict[str, object]]
) -> None:
    assert not found[name]["failures"]
    assert "refused" in found[name]["outcomes"]  # type: ignore[operator]


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
