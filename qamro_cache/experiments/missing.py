"""Train what of a grid has no result yet: here, a part of it, or on the workers of a Ray cluster.

Each stack's results are kept in ``done/`` when it is done, named by what they are of, so that
whoever stops or is killed loses the stacks that it had in work.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from qamro_cache.devices import usable_device
from qamro_cache.errors import QamroError
from qamro_cache.experiments.begun import Begun
from qamro_cache.experiments.fitting import stacks
from qamro_cache.experiments.nested import Trained
from qamro_cache.experiments.options import AblateOptions
from qamro_cache.experiments.plan import Plan, joined
from qamro_cache.experiments.precision import keep_precision
from qamro_cache.experiments.store import keep_stack, read_stacks
from qamro_cache.extraction.units import available_processors
from qamro_cache.spread import RayPool, parse_shard
from qamro_cache.temporary import locked
from qamro_cache.training.chunks import pieces
from qamro_cache.training.closed_form import is_closed
from qamro_cache.training.fit import Begun as Stack
from qamro_cache.training.fit import stacks_of_a_cpu
from qamro_cache.training.inputs import Bools, Features, Folds, Targets
from qamro_cache.training.meter import Meter, ProgressCallback, head_epochs
from qamro_cache.training.recipe import Job
from qamro_cache.training.result import Result

logger = logging.getLogger("qamro_cache")

#: Positions, and what is kept of them (`keep_stack`).
Found = Iterator[tuple[list[int], Mapping[str, npt.NDArray[Any]]]]
#: What all heads learn from.
Data = tuple[Sequence[Features], Targets, Folds]


class TrainingWorker:
    """The actor: one device, which trains a piece at a time.

    Args:
        settings: device and precision.
    """

    def __init__(self, settings: tuple[str, str]) -> None:
        self.settings = dict(zip(("device", "precision"), settings, strict=True))

    def run(
        self, data: Data, jobs: Sequence[Job], begun: Sequence[Stack]
    ) -> list[tuple[list[int], Mapping[str, npt.NDArray[Any]]]] | str:
        """Train a piece; a user's mistake is its message."""
        try:
            return list(_train(data, jobs, begun=begun, **self.settings))
        except QamroError as error:
            return str(error)


class Missing:
    """Trains the heads of plans that have no result yet.

    Args:
        options: of the grid: where, in which precision, and which part.
        out: its folder.
        progress: see `fit`.

    Attributes:
        done: folder of the results.
        device: that trains, or the kind of each worker's.
    """

    def __init__(
        self, options: AblateOptions, out: Path, progress: ProgressCallback | None
    ) -> None:
        self.options, self.progress = options, progress
        self.done, self._begun = out / "done", out / "begun"
        self._pool: RayPool | None = None
        self.device = usable_device(options.device) if not options.ray else self._of_workers

    def train(self, plans: Sequence[Plan]) -> Trained:
        """Train what is missing of plans that share their clips and folds."""
        start = time.monotonic()
        data, jobs = _material(plans)
        keys = [key for plan in plans for key in plan.keys]
        dealt = self._dealt(data, jobs)
        mine = sorted(k for stack in dealt for k in stack)
        done = read_stacks(self.done, len(plans[0].material.clips.rows))
        missing = [k for k in mine if keys[k] not in done]
        if not missing:
            return Trained(0, 0.0)
        if len(missing) < len(mine):
            logger.info("%d of %d heads are done already", len(mine) - len(missing), len(mine))
        chosen, names = [jobs[k] for k in missing], [keys[k] for k in missing]
        # Finished stacks are too coarse: all heads of a small grid may be in one.
        begun = Begun(self._begun)
        going_on = begun.read({name: place for place, name in enumerate(names)})
        if going_on:
            logger.info("%d heads are part way", sum(len(where) for where, _ in going_on))
        taken = {place for where, _ in going_on for place in where}
        places = {k: place for place, k in enumerate(missing) if place not in taken}
        rest = [[places[k] for k in stack if k in places] for stack in dealt]
        rest = [stack for stack in rest if stack]
        if self.options.ray:
            found = self._on_ray(data, chosen, going_on, rest)
        else:

            def keep(where: list[int], kept: Mapping[str, Tensor]) -> None:
                keep_precision(self.done, self.options.precision)
                begun.keep([names[k] for k in where], kept)

            work = [*going_on, *self._as_they_are(chosen, rest)]
            options: dict[str, Any] = {"begun": work, "keep": keep, "progress": self.progress}
            options |= {"device": self.device, "precision": self.options.precision}
            found = _train(data, chosen, **options)
        for where, results in found:
            heads = [names[k] for k in where]
            keep_precision(self.done, self.options.precision)
            keep_stack(self.done, heads, results)
            begun.remove(heads)
        begun.close()
        return Trained(len(missing), time.monotonic() - start)

    def left(self, plans: Sequence[Plan]) -> int:
        """Return how many heads of plans have no result, which other parts are to train."""
        if parse_shard(self.options.shard) is None:
            return 0
        wanted: dict[int, set[str]] = {}
        for plan in plans:
            wanted.setdefault(len(plan.material.clips.rows), set()).update(plan.keys)
        return sum(len(k - read_stacks(self.done, clips).keys()) for clips, k in wanted.items())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one part at a time look whether all is done, and write: the folder moves then."""
        with ExitStack() as stack:
            absent = 0
            while parse_shard(self.options.shard) is not None:
                try:
                    stack.enter_context(locked(self.done, needed=False))
                    break
                except BlockingIOError:
                    time.sleep(0.2)
                except FileNotFoundError:  # on its way to where it is again, or gone
                    absent += 1
                    if absent > 100:
                        raise
                    time.sleep(0.2)
            yield

    def close(self) -> None:
        """Let the workers go, if there are any."""
        if self._pool is not None:
            self._pool.close()

    @property
    def _of_workers(self) -> str:
        return "cuda" if self.options.gpus_per_worker else "cpu"

    @property
    def _on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def _dealt(self, data: Data, jobs: Sequence[Job]) -> list[list[int]]:
        """Return the positions of this part's jobs, whatever is done of them.

        On processors they are cut into the stacks of one process, whose last bits depend on what
        stands side by side; for GPUs into pieces that do not depend on what one of them holds.
        """
        index, count = parse_shard(self.options.shard) or (1, 1)
        if not self.options.ray and count == 1:
            return [list(range(len(jobs)))]
        if self._on_gpu:
            return pieces(jobs, data[0], count * self.options.num_workers)[index - 1 :: count]
        return stacks_of_a_cpu(*data, jobs)[index - 1 :: count]

    def _as_they_are(self, jobs: Sequence[Job], stacks: Sequence[list[int]]) -> list[Stack]:
        """Return the stacks that are not to be cut in another way, as of `fit`'s ``begun``."""
        alone = parse_shard(self.options.shard) is None and not self.options.ray
        if self._on_gpu or alone:
            return []
        return [(stack, None) for stack in stacks if not is_closed(jobs[stack[0]])]

    def _on_ray(
        self, data: Data, jobs: Sequence[Job], begun: Sequence[Stack], rest: Sequence[list[int]]
    ) -> Found:
        """Train on workers, a piece at a time each; one that dies loses its piece alone."""
        if self._pool is None:
            self._pool = RayPool(self.options)
            share = self._pool.share or available_processors() / self.options.num_workers
            self._cores = max(1, int(share))
            settings = (self.device, self.options.precision)
            self._pool.start(TrainingWorker, settings, min(self._cores, share))
        # As many stacks as a worker has processors are trained side by side there.
        most = 1 if self._on_gpu else self._cores
        groups = [list(rest[k : k + most]) for k in range(0, len(rest), most)]
        work: list[tuple[list[int], list[Stack]]] = [
            (where, [(list(range(len(where))), kept)]) for where, kept in begun
        ]
        for group in groups:
            where = [k for stack in group for k in stack]
            places = {k: place for place, k in enumerate(where)}
            inner = [[places[k] for k in stack] for stack in group]
            work.append((where, self._as_they_are([jobs[k] for k in where], inner)))
        learned = self._pool.put(data)
        tasks = [(learned, [jobs[k] for k in where], kept) for where, kept in work]
        meter = Meter(jobs, self.progress)

        def named(place: int) -> str:
            return f"a piece of {len(work[place][0])} heads: look for too little memory"

        for place, found in self._pool.run(tasks, named):
            where = work[place][0]
            meter.advance(sum(head_epochs(jobs[k]) for k in where), len(where))
            for inner_where, results in found:
                yield [where[k] for k in inner_where], results


def _material(plans: Sequence[Plan]) -> tuple[Data, list[Job]]:
    views, targets, jobs = joined(plans)
    return (views, targets, plans[0].folds), jobs


def _train(data: Data, jobs: Sequence[Job], **options: Any) -> Found:
    """Train heads; yield what is kept of each stack."""
    pairs, judged = data[1].pairs, data[2].test
    if pairs is not None:
        # A pair is judged by its other clip too, which the fold may have learned from.
        judged = judged | pairs.company(judged)
    for where, result in stacks(*data, jobs, weights=False, **options):
        yield where, _kept(result, judged[[jobs[k].fold for k in where]])


def _kept(result: Result, judged: Bools) -> Mapping[str, npt.NDArray[Any]]:
    """Return what is kept of a stack, whose heads [H] are asked of some clips [H, C]."""
    unknown = np.full((len(judged), 2), np.nan)
    return {
        "predictions": np.where(judged, result.predictions.float().numpy(), np.nan),
        "preference": unknown if result.preference is None else result.preference.numpy(),
        "best_epoch": result.best_epoch.numpy(),
        "diverged": result.diverged.numpy(),
        "stability": _mean_known(result.stability.double().numpy()),
    }


def _mean_known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each column's mean over its numbers; NaN for a column without any."""
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: npt.NDArray[np.float64] = np.where(seen, values, 0).sum(0) / seen.sum(0)
    return means
