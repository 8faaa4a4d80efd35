"""What is told and kept of heads while they are trained, now and then."""

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock

from torch import Tensor

from qamro_cache.training.closed_form import is_closed
from qamro_cache.training.recipe import Job
from qamro_cache.training.stack import Stack

#: Seconds of training that a killed process loses at most; the keeping takes a share at most.
KEEP_EVERY, KEEP_SHARE = 10.0, 0.05

#: (positions among the jobs, `Stack.snapshot`)
Keep = Callable[[list[int], Mapping[str, Tensor]], None]
#: (head-epochs done, of how many at most, heads that still run)
ProgressCallback = Callable[[int, int, int], None]


class Keeper:
    """Hands snapshots of a stack on, now and then."""

    def __init__(self, positions: list[int], keep: Keep | None) -> None:
        self.positions, self.keep = positions, keep
        self.next = time.monotonic() + KEEP_EVERY

    def look(self, stack: Stack, *, at_once: bool = False) -> None:
        """Keep the stack if it is time to."""
        if self.keep is None or (not at_once and time.monotonic() < self.next):
            return
        begin = time.monotonic()
        self.keep(self.positions, stack.snapshot())
        took = time.monotonic() - begin
        self.next = begin + took + max(KEEP_EVERY, took / KEEP_SHARE)


def head_epochs(job: Job) -> int:
    """Return a head's epochs at most; what is solved in closed form counts as one."""
    return 1 if is_closed(job) else job.recipe.epochs


class Meter:
    """Adds up the head-epochs of all stacks for the progress callback, and carries the stop."""

    def __init__(self, jobs: Sequence[Job], progress: ProgressCallback | None) -> None:
        self.total = sum(map(head_epochs, jobs))
        self.running = len(jobs)
        self.done = 0
        self.progress = progress
        self.lock = Lock()
        self.stop = Event()

    def advance(self, head_epochs: int, finished: int) -> None:
        """Count epochs of heads that are done, and heads that have finished."""
        with self.lock:
            self.done += head_epochs
            self.running -= finished
            if self.progress is not None:
                self.progress(self.done, self.total, self.running)


class Tally:
    """What a stack has told its meter."""

    def __init__(self, meter: Meter, jobs: Sequence[Job]) -> None:
        self.meter, self.heads = meter, len(jobs)
        self.total = sum(job.recipe.epochs for job in jobs)
        self.head_epochs = self.finished = 0

    def update(self, head_epochs: int, running: int) -> None:
        """Tell the epochs of all heads so far, and how many still run."""
        # Those who stopped early are done with all of theirs.
        head_epochs = head_epochs if running else self.total
        finished = self.heads - running
        self.meter.advance(head_epochs - self.head_epochs, finished - self.finished)
        self.head_epochs, self.finished = head_epochs, finished

    def take_back(self) -> None:
        """Have told nothing."""
        self.meter.advance(-self.head_epochs, -self.finished)
        self.head_epochs = self.finished = 0
