"""Train any list of heads in memory: into buckets of one shape, into chunks, each a stack."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from qamro_cache.heads.architecture import KEEP_CLIPS, Architecture
from qamro_cache.heads.network import Rows, prepare_rows
from qamro_cache.memory import refuse_memory
from qamro_cache.training.backend import choose_backend
from qamro_cache.training.chunks import (
    buckets,
    bytes_per_head,
    chunk_size,
    evenly,
    kinds_of,
)
from qamro_cache.training.closed_form import is_closed, solve
from qamro_cache.training.inputs import Features, Folds, Inputs, Targets, taught
from qamro_cache.training.meter import Keep, Keeper, Meter, ProgressCallback, Tally
from qamro_cache.training.recipe import Job
from qamro_cache.training.result import Result
from qamro_cache.training.stack import Stack
from qamro_cache.training.turns import Chunk, in_turn, side_by_side

logger = logging.getLogger("qamro_cache")

#: A stack's memory at its most (gradients, the best epoch's weights, results), in estimates of a
#: head at work.
_PEAK = 2.5


#: Positions of heads that are one stack, and its snapshot, if it has been begun.
Begun = tuple[list[int], Mapping[str, Tensor] | None]


def fit(
    features: Features | Sequence[Features],
    targets: Targets,
    folds: Folds,
    jobs: Sequence[Job],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    precision: str = "float32",
    order_seed: int = 0,
    initial: Mapping[int, Mapping[str, Tensor]] | None = None,
    chunk: int | None = None,
    weights: bool = True,
    keep: Keep | None = None,
    begun: Sequence[Begun] = (),
    progress: ProgressCallback | None = None,
) -> Iterator[tuple[list[int], Result]]:
    """Train every job's head; yield (positions among the jobs, results) chunk by chunk.

    Head k of a stack equals the same head trained alone with the same folds, whatever its
    neighbors are. Heads that are fitted at once come first (`training.closed_form`).

    Args:
        features: of the clips, on any device; several are views: a job names its own.
        targets: of the same clips.
        folds: masks over the same clips.
        jobs: the heads.
        device: where to train.
        dtype: of weights and activations.
        precision: of a GPU's float32 products: ``float32``; ``tf32``, which is faster and rounds
            operands to 10 bits; or ``bf16``, to 7 bits, which also stores activations so. Weights,
            the optimizer's state and sums stay float32.
        order_seed: of the batches.
        initial: target -> parameters to start from, of a head that scores in label units.
        chunk: heads in a stack at most; None: as the device's memory and caches suggest.
        weights: whether the results have the heads' weights; a thousand heads' take long to copy.
        keep: called now and then from the thread that trains a chunk, and as the work is stopped
            on a CPU, with the chunk's positions among the jobs and a snapshot of its stack.
        begun: positions and snapshots to go on from, of heads that nothing has changed for since;
            what does not fit is passed over. Without a snapshot: heads that are to be one stack.
        progress: called after every epoch of a chunk, from the thread that trains it.

    Raises:
        ValueError: an unfit recipe, a job without two training labels, a precision without a GPU.
        QamroError: heads that do not fit in the memory that is free.
    """
    data = _Data(features, targets, folds, order_seed, torch.device(device))
    meter = Meter(jobs, progress)

    def train(part: Chunk) -> Result:
        chosen = [jobs[k] for k in part.positions]
        stack = Stack(part.inputs, chosen, part.choose(), dtype, initial, weights)
        _go_on(stack, part.begun)
        return _train(stack, meter, Keeper(part.positions, keep))

    _refuse_untaught(targets, folds, jobs)
    yield from _solved(data, jobs, weights, meter)
    plan = _plan(data, jobs, dtype, precision, chunk, begun)
    on_gpu = data.device.type == "cuda"
    yield from in_turn(plan, train) if on_gpu else side_by_side(plan, train, meter.stop)


def stacks_of_a_cpu(
    features: Sequence[Features], targets: Targets, folds: Folds, jobs: Sequence[Job]
) -> list[list[int]]:
    """Return the positions of the heads of each stack that `fit` trains on a CPU."""
    data = _Data(features, targets, folds, 0, torch.device("cpu"))
    solved = [one for one in buckets(jobs, range(len(data.views))) if is_closed(jobs[one[0]])]
    plan = _plan(data, jobs, torch.float32, "float32", None, ())
    return solved + [part.positions for part in plan]


def _refuse_untaught(targets: Targets, folds: Folds, jobs: Sequence[Job]) -> None:
    asked = {(job.target, job.recipe.loss) for job in jobs}
    known = {(row, loss): taught(folds, targets, row, loss) for row, loss in asked}
    for job in jobs:
        loss = job.recipe.loss
        if not known[job.target, loss][job.fold]:
            few = "fewer than two training labels" if loss.on_labels.terms else "no training pair"
            raise ValueError(f"fold {job.fold} has {few} of target {job.target}")


def _solved(
    data: "_Data", jobs: Sequence[Job], weights: bool, meter: Meter
) -> Iterator[tuple[list[int], Result]]:
    # Each view on its own: they differ in what a block is.
    for positions in buckets(jobs, range(len(data.views))):
        chosen = [jobs[k] for k in positions]
        if is_closed(chosen[0]):
            inputs, done = data.inputs(chosen), partial(meter.advance, 1, 1)
            features = data.views[chosen[0].view]
            alone = weights and chosen[0].recipe.head.kind in KEEP_CLIPS
            for part in [[k] for k in positions] if alone else [positions]:
                mine = [jobs[k] for k in part]
                yield part, solve(features, inputs, mine, weights=weights, done=done)


class _Data:
    """What `fit` was given, on the device; rows are prepared once for all heads that see them."""

    def __init__(
        self,
        features: Features | Sequence[Features],
        targets: Targets,
        folds: Folds,
        order_seed: int,
        device: torch.device,
    ) -> None:
        self.views = [features] if isinstance(features, Features) else list(features)
        self.folds = folds
        self.order_seed, self.device = order_seed, device
        spread = targets.spread
        self.targets = Targets(
            targets.labels.double().to(device),
            targets.ranges.double().to(device),
            None if spread is None else spread.double().to(device),
            targets.pairs,
            targets.axes,
            None if targets.source is None else targets.source.to(device),
        )
        self.rows: dict[tuple[int, str, str, bool], Rows] = {}

    @cached_property
    def kinds(self) -> list[object]:
        """Of each view; see `kinds_of`."""
        return kinds_of(self.views)

    def inputs(self, jobs: Sequence[Job]) -> Inputs:
        """Return what the heads of a bucket learn from."""
        head, views = jobs[0].recipe.head, sorted({job.view for job in jobs})
        rows = {view: self._rows(head, view) for view in views}
        offsets = None
        if rows[views[0]].windows is not None:
            offsets = self.views[views[0]].offsets.to(self.device)
        return Inputs(rows, offsets, self.targets, self.folds, self.order_seed)

    def _rows(self, head: Architecture, view: int) -> Rows:
        # What `prepare_rows` looks at.
        key = (view, head.pooling, head.inputs, head.mixes)
        if key not in self.rows:
            windows, offsets, weights, text, _ = self.views[view]
            self.rows[key] = prepare_rows(
                head,
                windows.to(self.device).float(),
                offsets.to(self.device),
                weights.to(self.device).float(),
                None if text is None else text.to(self.device),
            )
        return self.rows[key]


def _plan(
    data: _Data,
    jobs: Sequence[Job],
    dtype: torch.dtype,
    precision: str,
    size: int | None,
    begun: Sequence[Begun],
) -> list[Chunk]:
    def chunk(positions: list[int], kept: Mapping[str, Tensor] | None = None) -> Chunk:
        recipe = jobs[positions[0]].recipe
        inputs = data.inputs([jobs[k] for k in positions])
        windows = inputs.offsets is not None
        choose = partial(choose_backend, recipe, data.device, dtype, precision, windows=windows)
        choose()  # what cannot be is refused before anything is trained
        return Chunk(positions, inputs, choose, kept)

    plan = [chunk(positions, kept) for positions, kept in begun]
    taken = {k for positions, _ in begun for k in positions}
    for positions in buckets(jobs, data.kinds):
        positions = [k for k in positions if k not in taken and not is_closed(jobs[k])]
        if not positions:
            continue
        recipe, whole = jobs[positions[0]].recipe, chunk(positions)
        values = next(iter(whole.inputs.rows.values())).values
        most = size or chunk_size([jobs[k] for k in positions], whole.inputs, dtype, data.device)
        parts = evenly(positions, most)
        if data.device.type == "cpu":
            head = bytes_per_head(recipe, tuple(values.shape[1:]), len(values), dtype)
            what = f"training {len(parts[0])} heads side by side"
            refuse_memory(
                _PEAK * len(parts[0]) * head, what, "ask for smaller --widths or --batch-size"
            )
        plan += [whole._replace(positions=part) for part in parts]
    return plan


def _go_on(stack: Stack, begun: Mapping[str, Tensor] | None) -> None:
    try:
        if begun is not None:
            stack.restore(begun)
    except ValueError as error:
        logger.warning("a begun stack is trained from its start: %s", error)


def _train(stack: Stack, meter: Meter, keeper: Keeper) -> Result:
    """Train a stack, with a look at its heads as often as its epochs' runner says."""
    tally = Tally(meter, stack.jobs)
    try:
        return _run(stack, meter, tally, keeper)
    except Exception:
        tally.take_back()  # it may be trained again
        raise


def _run(stack: Stack, meter: Meter, tally: Tally, keeper: Keeper) -> Result:
    backend, epoch = stack.backend, int(stack.epoch)
    with torch.no_grad():
        epochs = backend.epochs(stack.train_epoch, stack.batches)
        while True:
            with backend.products():
                for _ in range(min(epochs.look_every, stack.max_epochs - epoch)):
                    epochs.run(epoch)
                    epoch += 1
            before = len(stack.keys)
            running = stack.retire()
            tally.update(int(stack.epochs.sum()), running)
            if not running:
                return stack.finish()
            keeper.look(stack, at_once=meter.stop.is_set())
            if meter.stop.is_set():
                raise KeyboardInterrupt
            if len(stack.keys) < before:
                epochs = backend.epochs(stack.train_epoch, stack.batches)
