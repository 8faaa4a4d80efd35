"""How work is spread over processes and machines: a part each, or workers of a Ray cluster."""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qamro_cache.encoders.support import install_line
from qamro_cache.errors import OptionError, QamroError, words_of
from qamro_cache.settings import setting

logger = logging.getLogger("qamro_cache")

#: Times a task may take its worker down before the run stops.
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where workers are, and what each has."""

    ray: str = setting("", "Address of a Ray cluster to work on; local: this machine.")
    num_workers: int = setting(
        1, "Workers at once, with --ray.", low=1, high=1024, why="each is a process"
    )
    gpus_per_worker: float = setting(
        0.0,
        "GPUs of each, or a part of one; 0: processors only.",
        low=0,
        high=16,
        why="a worker uses one GPU",
    )

    def refuse_without_ray(self, device: str) -> None:
        """Refuse options of workers without any, and a device of this machine with them."""
        if not self.ray and (self.num_workers != 1 or self.gpus_per_worker):
            raise OptionError("--num-workers and --gpus-per-worker need --ray ADDRESS")
        if self.ray and device:
            raise OptionError("--device does not go with --ray; use --gpus-per-worker")


def parse_shard(text: str) -> tuple[int, int] | None:
    """Return (i, n) of ``i/n``; None for ``all``.

    Raises:
        OptionError: it is neither.
    """
    if text == "all":
        return None
    # More digits than an int may have are a ValueError of Python's own.
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise OptionError(f"shard {text!r} is not i/n with i from 1 to n, for example 3/8")
    return int(found[1]), int(found[2])


class RayPool:
    """Workers of one kind on a Ray cluster, or on this machine, and the tasks they are handed.

    Results come back to this process, which alone writes. A worker that dies is replaced, and what
    it held is done again.

    Args:
        options: where, how many and with which GPUs.

    Attributes:
        share: processors that there are for each worker; None: the cluster does not say.

    Raises:
        QamroError: Ray is not installed, the cluster cannot be reached or is too small.
    """

    def __init__(self, options: RayOptions) -> None:
        try:
            import ray as imported
        except ImportError as error:
            raise QamroError(f"Ray is not installed; {install_line('ray')}") from error
        self.ray: Any = imported
        self.options = options
        self._connect(options.ray)
        try:
            found = self.ray.cluster_resources()
            count, gpus = options.num_workers, options.gpus_per_worker
            if found.get("GPU", 0) < count * gpus:
                raise QamroError(
                    f"{count} workers with {gpus:g} GPUs each do not fit: "
                    f"the cluster has {found.get('GPU', 0):g}"
                )
        except BaseException:
            self.close()
            raise
        self.share: float | None = found["CPU"] / count if "CPU" in found else None

    def start(self, worker: type, argument: Any, cpus: float) -> None:
        """Start the workers; the argument of each travels to a machine once."""
        options = {"num_cpus": cpus, "num_gpus": self.options.gpus_per_worker, "max_restarts": 0}
        self._worker, self._argument = (
            self.ray.remote(worker).options(**options),
            self.put(argument),
        )
        self._idle = [self._start() for _ in range(self.options.num_workers)]

    def put(self, value: Any) -> Any:
        """Return what stands for a value in tasks; it travels to a machine once."""
        return self.ray.put(value)

    def ask(self, method: str) -> Any:
        """Return what a method of the first worker returns; a text is a user's mistake."""
        try:
            found = self.ray.get(getattr(self._idle[0], method).remote())
        except self.ray.exceptions.RayError as error:
            raise QamroError(
                f"a Ray worker cannot start ({str(error).splitlines()[-1][:200]}); "
                "is this program installed on the cluster's machines?"
            ) from error
        return _done(found)

    def run(
        self, tasks: Sequence[tuple[Any, ...]], named: Callable[[int], str], ahead: int = 1
    ) -> Iterator[tuple[int, Any]]:
        """Yield the place of each task and what ``run`` of a worker made of it, as it is done.

        Args:
            tasks: the arguments of ``run``, which returns a text for a user's mistake.
            named: what a task is, and what to look for if it takes its workers down.
            ahead: tasks that each worker has been given, so that it need not wait for this process.

        Raises:
            QamroError: a user's mistake, or a task has taken several workers down.
        """
        todo = deque(range(len(tasks)))
        attempts = [0] * len(tasks)
        workers = list(self._idle)
        running: dict[Any, tuple[Any, int]] = {}  # result -> worker, place
        while todo or running:
            for worker in workers:
                while todo and sum(one is worker for one, _ in running.values()) < ahead:
                    place = todo.popleft()
                    running[worker.run.remote(*tasks[place])] = (worker, place)
            (ready, *_), _ = self.ray.wait(list(running), num_returns=1)
            worker, place = running.pop(ready)
            try:
                result = self.ray.get(ready)
            except self.ray.exceptions.RayError as error:
                # Every task that this worker held fails in the same way; do them all again.
                attempts[place] += 1
                if attempts[place] >= ATTEMPTS:
                    raise QamroError(
                        f"the worker died {ATTEMPTS} times on {named(place)} "
                        f"({type(error).__name__})"
                    ) from error
                todo.appendleft(place)
                if any(worker is known for known in workers):
                    logger.warning(
                        "a worker was lost (%s); another takes its place", type(error).__name__
                    )
                    workers = [known for known in workers if known is not worker]
                    self.ray.kill(worker)
                    workers.append(self._start())
                continue
            yield place, _done(result)
        self._idle = workers

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self.ray.shutdown()

    def _connect(self, address: str) -> None:
        try:
            self.ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if address == "local" else None,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise QamroError(f"no Ray cluster at {address!r} ({words_of(error)})") from error

    def _start(self) -> Any:
        return self._worker.remote(self._argument)


def _done(result: Any) -> Any:
    if isinstance(result, str):
        raise QamroError(result)
    return result
