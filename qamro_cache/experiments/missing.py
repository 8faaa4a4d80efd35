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
from qamro_cache.experiments.store import keep_stack, read_stacks
from qamro_cache.extraction.units import available_processors
from qamro_cache.spread import RayPool, parse_shard
from qamro_cache.temporary import locked
from qamro_cache.training.chunks import pieces
from qamro_cache.training.inputs import Features, Folds, Targets
from qamro_cache.training.meter import Meter, ProgressCallback
from qamro_cache.training.recipe import Job
from qamro_cache.training.result import Result

logger = logging.getLogger("qamro_cache")

#: Heads a piece on each processor of a worker, about a stack there: little to do again.
ON_A_PROCESSOR = 16

#: Positions of heads among the jobs, and their stack's snapshot.
Begin = tuple[list[int], Mapping[str, Tensor]]
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
        self, data: Data, jobs: Sequence[Job], begun: Sequence[Begin]
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
        mine = self._mine(jobs, data[0])
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
        if self.options.ray:
            found = self._on_ray(data, chosen, going_on)
        else:
            options = {"device": self.device, "precision": self.options.precision}

            def keep(where: list[int], kept: Mapping[str, Tensor]) -> None:
                begun.keep([names[k] for k in where], kept)

            found = _train(
                data, chosen, begun=going_on, keep=keep, progress=self.progress, **options
            )
        for where, results in found:
            heads = [names[k] for k in where]
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

    def _mine(self, jobs: Sequence[Job], views: Sequence[Features]) -> list[int]:
        """Return the positions of this part's jobs, whatever is done of them."""
        part = parse_shard(self.options.shard)
        if part is None:
            return list(range(len(jobs)))
        index, count = part
        cut = pieces(jobs, views, lambda heads: -(-heads // count))
        return sorted(k for piece in cut[index - 1 :: count] for k in piece)

    def _on_ray(self, data: Data, jobs: Sequence[Job], begun: Sequence[Begin]) -> Found:
        """Train on workers, a piece at a time each; one that dies loses its piece alone."""
        options, count = self.options, self.options.num_workers
        if self._pool is None:
            self._pool = RayPool(options)
            share = self._pool.share or available_processors() / count
            settings = (self.device, options.precision)
            self._cores = max(1, int(share))
            self._pool.start(TrainingWorker, settings, min(self._cores, share))
        most = len(jobs) if options.gpus_per_worker else ON_A_PROCESSOR * self._cores
        taken = {k for where, _ in begun for k in where}
        rest = [k for k in range(len(jobs)) if k not in taken]
        cut = pieces([jobs[k] for k in rest], data[0], lambda heads: min(most, -(-heads // count)))
        work: list[tuple[list[int], list[Begin]]]
        work = [(where, [(list(range(len(where))), kept)]) for where, kept in begun]
        work += [([rest[k] for k in piece], []) for piece in cut]
        learned = self._pool.put(data)
        tasks = [(learned, [jobs[k] for k in where], kept) for where, kept in work]
        meter = Meter(jobs, self.progress)

        def named(place: int) -> str:
            return f"a piece of {len(work[place][0])} heads: look for too little memory"

        for place, found in self._pool.run(tasks, named):
            where = work[place][0]
            meter.advance(sum(jobs[k].recipe.epochs for k in where), len(where))
            for inner, results in found:
                yield [where[k] for k in inner], results


def _material(plans: Sequence[Plan]) -> tuple[Data, list[Job]]:
    views, targets, jobs = joined(plans)
    return (views, targets, plans[0].folds), jobs


def _train(data: Data, jobs: Sequence[Job], **options: Any) -> Found:
    """Train heads; yield what is kept of each stack."""
    folds = data[2]
    for where, result in stacks(*data, jobs, weights=False, **options):
        yield where, _kept(result, folds, [jobs[k].fold for k in where])


def _kept(result: Result, folds: Folds, of: Sequence[int]) -> Mapping[str, npt.NDArray[Any]]:
    """Return what is kept of a stack whose heads are of some folds."""
    return {
        "predictions": np.where(folds.test[of], result.predictions.float().numpy(), np.nan),
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
