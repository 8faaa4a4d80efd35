"""A stack of heads in training: one device, one bucket, every head's state beside the others'."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qamro_cache.evaluation import metrics
from qamro_cache.heads.network import Rows, init_params, score_rows
from qamro_cache.losses.composed import LabelStats, value_and_grad
from qamro_cache.training.net import Dropout, Group, make_net
from qamro_cache.training.prepare import rows_of_folds, start_from, tensors_of_heads
from qamro_cache.training.problem import Problem, make_schedule
from qamro_cache.training.recipe import Bools, Job
from qamro_cache.training.result import Result, empty_result
from qamro_cache.training.schedule import Indices

if TYPE_CHECKING:
    from qamro_cache.training.gpu.step_loss import StepLoss

#: Measured on the validation set after every epoch, a row each of the history.
WATCHED = (
    "loss",
    "clip_mse",
    "clip_lcc",
    "clip_srcc",
    "system_mse",
    "system_lcc",
    "system_srcc",
    "stability",
)

#: The terms and units that a GPU computes in a few launches, see `gpu.step_loss`.
USUAL_LOSS = (("huber", "standardized"), ("qamro", "standardized"))

#: Clips scored at once, so that activations stay small whatever the size of the set.
EVAL_CLIPS = 2048
#: Clips of a validation set that a GPU ranks by counting; sorting has fewer comparisons for more.
COUNTED_CLIPS = 2048


class Batch(NamedTuple):
    """One step's clips [orders, b], which of them count, and whether every head has a sample."""

    clips: Tensor
    valid: Tensor
    everybody: bool


class Stack:
    """Heads of one bucket, sorted so that those who see the same rows stand together."""

    def __init__(
        self,
        problem: Problem,
        jobs: Sequence[Job],
        dtype: torch.dtype,
        initial: Mapping[int, Mapping[str, Tensor]],
        precision: str = "float32",
        weights: bool = True,
    ) -> None:
        self.problem, self.jobs, self.dtype = problem, list(jobs), dtype
        self.device = problem.targets.device
        recipe = jobs[0].recipe
        self.settings, self.loss = recipe.head, recipe.full_loss
        # Triton's: on a GPU, or interpreted in tests.
        self.has_kernels = self.device.type == "cuda" or precision != "float32"
        one_pass = self.has_kernels and dtype == torch.float32
        self.net, optimizer = make_net(recipe, precision, one_pass)
        usual = [(t.name, t.units) for t in self.loss.terms] == list(USUAL_LOSS)
        self.fuses_loss = one_pass and usual and problem.offsets is None
        self.schedule, orders = make_schedule(problem, jobs)
        self.keys = [(job.fold, order) for job, order in zip(jobs, orders, strict=True)]
        self.folds = rows_of_folds(problem, [job.fold for job in jobs], self.settings, dtype)
        self.heads = tensors_of_heads(problem, jobs, orders, dtype)
        self.max_epochs = max(job.recipe.epochs for job in jobs)
        # Which clips count for whom, once for each kind of head: asked at every step.
        usable = self.heads["train"].cpu().numpy()
        self.usable = {(order, usable[h].tobytes()): usable[h] for h, order in enumerate(orders)}
        shape = problem.rows.values.shape[1:]
        seeds = [job.seed for job in jobs]
        self.params = init_params(self.settings, shape, seeds, device=self.device, dtype=dtype)
        start_from(self.params, self.heads, jobs, initial)
        self.optimizer = optimizer(self.params, self.heads)
        self.drops = recipe.dropout > 0
        self.steps = torch.zeros((), dtype=torch.int64, device=self.device)
        self.epoch = torch.zeros((), dtype=torch.int64, device=self.device)
        self.best = {name: p.clone() for name, p in self.params.items()}
        # One that no clip is of, where systems are not known: its figures are NaN.
        self.num_systems = max(1, int(problem.systems.max()) + 1)
        # What is kept of all heads, running or not; `ids` says which of them still are.
        heads = len(jobs)
        self.ids = torch.arange(heads, device=self.device)
        blank = torch.full((len(WATCHED), heads), torch.nan, device=self.device)
        self.history = blank.repeat(self.max_epochs, 1, 1)
        self.blank = blank
        self.epochs = torch.zeros(heads, dtype=torch.int64, device=self.device)
        kept = self.params if weights else {}
        standardized = self.folds[jobs[0].fold].moments is not None
        self.results = empty_result(
            heads, problem.num_clips, kept, dtype, shape[-1] if standardized else 0
        )
        self._regroup()

    def _regroup(self) -> None:
        """Find the runs of heads that see the same rows; bind what depends on the heads."""
        self.groups = _runs(self.keys)
        heads = self.heads
        self.labels = LabelStats(
            heads["label_mean"], heads["label_std"], heads["low"], heads["high"]
        )
        self.step_loss: StepLoss | None = None
        if self.fuses_loss:
            from qamro_cache.training.gpu import step_loss  # needs Triton

            self.step_loss = step_loss.StepLoss(heads, self.loss)

    def batches(self, epoch: int) -> list[Batch]:
        """Return the steps of an epoch."""
        steps = []
        for clips, valid in self.schedule.epoch(epoch):
            steps.append(
                Batch(
                    torch.from_numpy(np.ascontiguousarray(clips)).to(self.device),
                    torch.from_numpy(np.ascontiguousarray(valid)).to(self.device),
                    self._everybody(clips, valid),
                )
            )
        return steps

    def row_cap(self, clips: int) -> int | None:
        """Return the most rows that ``clips`` clips can have; None where a row is a clip."""
        if self.problem.offsets is None:
            return None
        return int(self.problem.offsets.diff().sort(descending=True).values[:clips].sum())

    def nobody_starves(self) -> bool:
        """Return whether every head has a valid sample in every step of every epoch."""
        pools, first = self.schedule.pools, self.schedule.epoch(0)
        narrowest = [
            min(int(valid[order].sum()) for _, valid in first) for order in range(len(pools))
        ]
        # A step wider than all of a head's held-out clips cannot miss its others.
        if all(
            int((~mask[pools[order]]).sum()) < narrowest[order]
            for (order, _), mask in self.usable.items()
        ):
            return True
        epochs = (self.schedule.epoch(number) for number in range(self.max_epochs))
        return all(self._everybody(*step) for steps in epochs for step in steps)

    def _everybody(self, clips: Indices, valid: Bools) -> bool:
        return all(
            bool((mask[clips[order]] & valid[order]).any())
            for (order, _), mask in self.usable.items()
        )

    def train_epoch(self, batches: Sequence[Batch], cap: Sequence[int | None]) -> None:
        """Take every step of an epoch and judge the heads; never waits for the device."""
        for batch, rows in zip(batches, cap, strict=True):
            self._step(batch, rows)
        self._judge()

    def _step(self, batch: Batch, cap: int | None) -> None:
        heads = self.heads
        groups = [
            Group(self.problem.take(self.folds[fold].values, batch.clips[turn], cap), part)
            for fold, turn, part in self.groups
        ]
        dropout = Dropout(heads["dropout"], heads["seed"], self.steps) if self.drops else None
        scores = self.net.forward(self.params, groups, heads["bounds"], dropout)
        if self.step_loss is not None:
            grad, mask = self.step_loss.step(scores, batch.clips, batch.valid)
        else:
            grad, mask = self._any_loss(scores, batch)
        self.optimizer.begin(None if batch.everybody else mask.any(1))
        self.net.backward(grad, self.optimizer)
        self.optimizer.step()
        self.steps += 1

    def _any_loss(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the gradient of the scores, and which clips count [H, B]."""
        heads, order = self.heads, self.heads["order"]
        clips = batch.clips[order]
        target = heads["target"].gather(1, clips)
        mask = heads["train"].gather(1, clips) & batch.valid[order]
        std = heads["label_std"][:, None]
        value, grad = value_and_grad(
            self.loss,
            scores[:, : clips.shape[1]] * std + heads["label_mean"][:, None],
            target,
            mask=mask,
            labels=self.labels,
            numbers=heads["loss_numbers"],
        )
        heads["finite"].logical_and_(value.isfinite())
        grad = grad * std
        if scores.shape[1] > grad.shape[1]:
            grad = torch.cat([grad, grad.new_zeros(len(grad), scores.shape[1] - grad.shape[1])], 1)
        return grad, mask

    def _judge(self) -> None:
        """Measure on the validation sets, keep the best weights, and see who is finished."""
        heads, number = self.heads, self.epoch + 1
        running = ~heads["finished"]
        last = number >= heads["epochs"]
        keep = running & last & ~heads["has_validation"]
        if any(fold.validation is not None for fold in self.folds.values()):
            loss = self._watch(running)
            heads["finite"].logical_and_(loss.isfinite() | ~heads["has_validation"])
            better = running & heads["has_validation"] & (loss < heads["best_loss"])
            heads["best_loss"].copy_(torch.where(better, loss, heads["best_loss"]))
            keep |= better
        heads["best_epoch"].copy_(torch.where(keep, number, heads["best_epoch"]))
        self._keep(keep)
        patient = number - heads["best_epoch"] < heads["patience"]
        # Not what becomes of a head that is finished and only waits to be taken out.
        heads["diverged"].logical_or_(running & ~heads["finite"])
        over = last | ~heads["finite"] | (heads["has_validation"] & ~patient)
        self.epochs[self.ids] += running
        heads["finished"].logical_or_(over)
        self.epoch += 1

    def _watch(self, running: Tensor) -> Tensor:
        """Score the validation sets into the history; return the loss [H]."""
        heads, mask = self.heads, self.heads["validation_mask"]
        target = heads["validation_target"]
        pred = torch.zeros_like(target)
        for fold, _, part in self.groups:
            rows = self.folds[fold].validation
            if rows is not None:
                some = self._score(self.params, part, rows)
                # Without the clip that padding windows belong to.
                width = min(some.shape[1], pred.shape[1])
                pred[part, :width] = some[:, :width]
        scores = pred
        pred = scores * heads["label_std"][:, None] + heads["label_mean"][:, None]
        if self.step_loss is not None:
            loss = self.step_loss.validation(scores)
        else:
            loss, _ = value_and_grad(
                self.loss,
                pred,
                target,
                mask=mask,
                labels=self.labels,
                numbers=heads["loss_numbers"],
            )
        table = torch.cat([loss.to(self.history.dtype).unsqueeze(0), self._figures(pred)])
        table = torch.where(running & heads["has_validation"], table, torch.nan)
        # The number of the epoch is on the device: written by index, nothing waits for it.
        row = self.blank.index_copy(1, self.ids, table)
        self.history.index_copy_(0, self.epoch.reshape(1), row.unsqueeze(0))
        return loss

    def _figures(self, pred: Tensor) -> Tensor:
        """Return what `WATCHED` names after the loss; keep ``pred`` [H, S] for the next epoch."""
        heads, mask = self.heads, self.heads["validation_mask"]
        target, system = heads["validation_target"], heads["validation_system"]
        if self.has_kernels and max(pred.shape[1], self.num_systems) <= COUNTED_CLIPS:
            from qamro_cache.training.gpu.measures import measure  # needs Triton

            before = heads["validation_before"]
            table = measure(pred, before, target, mask, system, self.num_systems)
            heads["validation_before"].copy_(pred)
            return table
        seen = mask.to(torch.float64)
        by_system = metrics.system_means(pred, system, self.num_systems, seen)
        truth = metrics.system_means(target, system, self.num_systems, seen)
        present = (by_system.clips > 0).double()
        rows = [f(pred, target, seen) for f in (metrics.mse, metrics.lcc, metrics.srcc)]
        rows += [
            f(by_system.mean, truth.mean, present) for f in (metrics.mse, metrics.lcc, metrics.srcc)
        ]
        rows.append(metrics.srcc(pred, heads["validation_before"], seen))
        heads["validation_before"].copy_(pred)
        return torch.stack([row.to(self.history.dtype) for row in rows])

    def _keep(self, better: Tensor) -> None:
        """Copy the weights of the heads where ``better`` [H] to the best ones."""
        if not self.has_kernels:
            chosen = better.nonzero()[:, 0]
            for name, p in self.params.items():
                self.best[name].index_copy_(0, chosen, p.index_select(0, chosen))
            return
        from qamro_cache.training.gpu import passes  # needs Triton

        for name, p in self.params.items():
            passes.keep(self.best[name], p, better)

    def _score(self, params: Mapping[str, Tensor], part: slice, rows: Rows) -> Tensor:
        chosen = {name: p[part] for name, p in params.items()}
        bounds = self.heads["bounds"][part]
        return self.net.score(chosen, rows, bounds)

    def retire(self) -> int:
        """Take the finished heads out of the stack; return how many still run.

        Waits for the device. While few have finished they stay: training them on for nothing
        costs less than rebuilding the stack.
        """
        finished = self.heads["finished"].cpu()
        running = int((~finished).sum())
        if running and running > 0.75 * len(finished):
            return running
        self._store(finished.nonzero()[:, 0])
        if running:
            self._select((~finished).nonzero()[:, 0])
        return running

    def _store(self, chosen: Tensor) -> None:
        """Write the kept weights of ``chosen`` heads and their predictions to the results."""
        here, ids = chosen.to(self.device), self.ids.cpu()[chosen]
        best = {name: p.index_select(0, here) for name, p in self.best.items()}
        diverged = self.heads["diverged"].index_select(0, here)
        bounds = self.heads["bounds"].index_select(0, here)
        keys = [self.keys[h] for h in chosen.tolist()]
        scores = torch.empty(len(keys), self.problem.num_clips, dtype=self.dtype)
        for start in range(0, self.problem.num_clips, EVAL_CLIPS):
            stop = min(start + EVAL_CLIPS, self.problem.num_clips)
            clips = torch.arange(start, stop, device=self.device)
            for fold, _, part in _runs(keys):
                rows = self.problem.take(self.folds[fold].values, clips)
                some = {name: p[part] for name, p in best.items()}
                block = score_rows(self.settings, some, rows, bounds=bounds[part])
                scores[part, start:stop] = block[:, : len(clips)].cpu()
        std = self.heads["label_std"].index_select(0, here).cpu()
        mean = self.heads["label_mean"].index_select(0, here).cpu()
        predictions = scores * std[:, None] + mean[:, None]
        diverged = diverged.cpu() | ~predictions.isfinite().all(1)
        results = self.results
        results.predictions[ids] = predictions.masked_fill(diverged[:, None], torch.nan)
        results.diverged[ids] = diverged
        results.best_epoch[ids] = self.heads["best_epoch"].index_select(0, here).cpu()
        results.label_mean[ids], results.label_std[ids] = mean, std
        for name in results.params:
            if len(ids) == len(self.jobs):
                results.params[name] = best[name].cpu()
            else:
                results.params[name][ids] = best[name].cpu()
        for fold, _, part in _runs(keys):
            moments = self.folds[fold].moments
            if results.row_mean is not None and results.row_std is not None and moments is not None:
                row_mean, row_std = moments
                results.row_mean[ids[part]], results.row_std[ids[part]] = (
                    row_mean.cpu(),
                    row_std.cpu(),
                )

    def _select(self, chosen: Tensor) -> None:
        """Go on with ``chosen`` heads only."""
        here = chosen.to(self.device)

        def part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.index_select(0, here) for name, value in tensors.items()}

        self.keys = [self.keys[h] for h in chosen.tolist()]
        self.heads, self.params, self.best = part(self.heads), part(self.params), part(self.best)
        self.ids = self.ids.index_select(0, here)
        self.optimizer.state = part(self.optimizer.state)
        self.optimizer.params = self.params
        self.optimizer.use(self.heads)
        self._regroup()

    def finish(self) -> Result:
        """Return everything, once no head runs."""
        return self.results._replace(
            epochs=self.epochs.cpu(), history=self.history[: int(self.epoch)].cpu()
        )


def _runs(keys: Sequence[tuple[int, int]]) -> list[tuple[int, int, slice]]:
    """Return the runs of equal keys: (fold, order, heads)."""
    runs, start = [], 0
    for h in range(1, len(keys) + 1):
        if h == len(keys) or keys[h] != keys[start]:
            runs.append((*keys[start], slice(start, h)))
            start = h
    return runs
