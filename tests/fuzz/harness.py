"""Run a door's cases in forked children, so that a crash, a hang or a flood of memory is a case.

A case is made of (seed, door, number) alone, so each can be run again by its number.
"""

import contextlib
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

#: Of one case: most seconds of work, and by the clock, where other programs may slow it down; most
#: bytes that it may take beside what the process has already.
SECONDS, CLOCK_SECONDS, BYTES = 20, 180, 1 << 30
#: Cases of one child.
BATCH = 500


@dataclass(frozen=True)
class Door:
    """One way in.

    Attributes:
        name: on the command line.
        prepare: makes what the cases start from in a folder; run in a child of its own, since it
            may start threads, which a fork does not survive.
        load: reads in a child what its cases share.
        case: runs one case in an empty folder. It returns a word for the outcome (``refused``,
            ``same``, ``taken``) and raises an AssertionError when content is wrong, an error is
            not one line, or the like. Any other exception is a traceback.
        share: part of the cases asked for that are run, for a door whose cases take long.
    """

    name: str
    prepare: Callable[[Path], None]
    load: Callable[[Path], Any]
    case: Callable[[Any, random.Random, Path], str]
    share: float = 1.0


@dataclass
class Report:
    """Outcomes of a door: word -> count; and what failed, a line each."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: "Report") -> None:
        """Count another part of the same door."""
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.seconds = round(self.seconds + other.seconds, 1)


def doors() -> dict[str, Door]:
    """Return all doors by name."""
    from fuzz import doors as package

    modules = (m.name for m in pkgutil.iter_modules(package.__path__))
    found = [import_module(f"fuzz.doors.{name}").DOOR for name in modules]
    return {door.name: door for door in found}


def run_door(door: Door, cases: int, seed: int, first: int = 0) -> Report:
    """Run cases ``first`` to ``first + cases``."""
    import torch

    # Loaded once for all children, and no thread started that a fork would not survive.
    torch.set_num_threads(1)
    report, start = Report(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        (folder / "good").mkdir()
        _in_child(lambda _: door.prepare(folder / "good"))
        number, end = first, first + cases
        while number < end:
            number = _batch(door, range(number, min(number + BATCH, end)), seed, folder, report)
    report.seconds = round(time.monotonic() - start, 1)
    return report


def _batch(door: Door, numbers: range, seed: int, folder: Path, report: Report) -> int:
    """Run cases in a child and return the number of the next one to run."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w", buffering=1) as out:
            _child(door, numbers, seed, folder, out)
        os._exit(0)
    os.close(writer)
    number = numbers.start
    with os.fdopen(reader) as lines:
        for line in lines:
            record = json.loads(line)
            report.outcomes[record["outcome"]] += 1
            if "why" in record:
                report.failures.append({"door": door.name, "case": number, "seed": seed, **record})
            number += 1
    status = os.waitpid(child, 0)[1]
    if number < numbers.stop:
        stopped = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
        hangs = {"SIGPROF": f"{SECONDS} s of work", "SIGALRM": f"{CLOCK_SECONDS} s by the clock"}
        outcome, why = "hang" if stopped in hangs else "crash", hangs.get(stopped, stopped)
        report.outcomes[outcome] += 1
        report.failures.append(
            {"door": door.name, "case": number, "seed": seed, "outcome": outcome, "why": why}
        )
        number += 1
    return number


def _child(door: Door, numbers: range, seed: int, folder: Path, out: Any) -> None:
    sys.stdout.flush()
    _quiet()
    loaded = door.load(folder / "good")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for number in numbers:
        place = folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        _allow(SECONDS, CLOCK_SECONDS)
        record = _one(door, loaded, random.Random(f"{seed} {door.name} {number}"), place)
        _allow(0, 0)
        out.write(json.dumps(record) + "\n")


def _allow(work: int, clock: int) -> None:
    """End this process after so many seconds; 0: never."""
    signal.setitimer(signal.ITIMER_PROF, work)
    signal.alarm(clock)


def _one(door: Door, loaded: Any, choose: random.Random, place: Path) -> dict[str, str]:
    try:
        return {"outcome": door.case(loaded, choose, place)}
    except MemoryError:
        return {"outcome": "memory", "why": _where()}
    except AssertionError as error:
        return {"outcome": "wrong", "why": str(error)[:2000] or _where()}
    except BaseException:
        return {"outcome": "traceback", "why": _where()}


def _where() -> str:
    return traceback.format_exc()[-2000:]


def _quiet() -> None:
    """Send what C code prints to nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _in_child(work: Callable[[None], None]) -> None:
    child = os.fork()
    if child == 0:
        try:
            work(None)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the good files could not be made"


@contextlib.contextmanager
def single_case(door: Door) -> Iterator[Callable[[int, int], str]]:
    """Give a function that runs one case in this process, to look at what failed."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        (folder / "good").mkdir()
        (folder / "case").mkdir()
        door.prepare(folder / "good")
        loaded = door.load(folder / "good")
        yield lambda seed, number: door.case(
            loaded, random.Random(f"{seed} {door.name} {number}"), folder / "case"
        )
