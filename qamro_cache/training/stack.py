"""A stack of heads in training: one device, one bucket, every head's state beside the others'."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qamro_cache.heads.network import score_rows, take_rows
from qamro_cache.heads.outputs import means
from qamro_cache.heads.parameters import init_params
from qamro_cache.training.backend import Backend
from qamro_cache.training.batches import Batch, Batches
from qamro_cache.training.inputs import Inputs
from qamro_cache.training.net import Dropout
from qamro_cache.training.optimizer import select_
from qamro_cache.training.preferences import (
    LEARNED,
    ends_of,
    finished,
    first_learned,
    given_tau,
    network_of,
)
from qamro_cache.training.prepare import rows_of_folds, start_from
from qamro_cache.training.recipe import Job
from qamro_cache.training.result import Result, empty_result
from qamro_cache.training.schedule import make_schedule
from qamro_cache.training.state import make_state
from qamro_cache.training.step_loss import PairStepLoss
from qamro_cache.training.stopping import Progress
from qamro_cache.training.views import View

#: Tensors of a stack, and of its results, that training changes.
_CHANGING = ("ids", "steps", "epoch", "epochs", "history")
_STORED = (
    "predictions",
    "best_epoch",
    "diverged",
    "row_mean",
    "row_std",
    "label_mean",
    "label_std",
    "preference",
)
#: A view and a fold; and with an order of batches, the heads that follow it.
Seen = tuple[int, int]
Run = tuple[Seen, int, slice]
#: Clips scored at once, so that activations stay small whatever the size of the set.
EVAL_CLIPS = 2048


class Stack:
    """Heads of one bucket, sorted so that those who see the same rows stand together."""

    def __init__(
        self,
        inputs: Inputs,
        jobs: Sequence[Job],
        backend: Backend,
        dtype: torch.dtype = torch.float32,
        initial: Mapping[int, Mapping[str, Tensor]] | None = None,
        weights: bool = True,
    ) -> None:
        """Lay out the heads of ``jobs``; the rest as for `fit`."""
        self.inputs, self.jobs, self.backend, self.dtype = inputs, list(jobs), backend, dtype
        self.device = inputs.targets.labels.device
        recipe = jobs[0].recipe
        self.head, self.drops = recipe.head, recipe.dropout > 0
        self.outputs = (2,) if self.head.output == "gaussian" else ()
        schedule, orders = make_schedule(inputs.folds, inputs.targets, jobs, inputs.order_seed)
        seen = [(job.view, job.fold) for job in jobs]
        self.keys = list(zip(seen, orders, strict=True))
        self.folds = rows_of_folds(inputs, seen, self.head, dtype)
        self.has_validation = any(fold.validation is not None for fold in self.folds.values())
        self.state = make_state(inputs, jobs, orders, dtype)
        self.max_epochs = max(job.recipe.epochs for job in jobs)
        learned = torch.cat([self.state.train, self.state.pair_weight > 0], 1)
        self.ends = ends_of(inputs) if recipe.loss.on_pairs.terms else None
        self.batches = Batches(
            schedule, orders, learned, inputs.offsets, self.max_epochs, self.ends
        )
        shape = inputs.rows[jobs[0].view].values.shape[1:]
        seeds = [job.seed for job in jobs]
        self.params = init_params(self.head, shape, seeds, device=self.device, dtype=dtype)
        start_from(self.params, self.state, jobs, initial or {})
        if self.ends is not None:
            self.params[LEARNED] = first_learned(self.state.pair_winner, self.state.pair_weight)
        self.alone = not recipe.loss.on_labels.terms
        self.best = {name: p.clone() for name, p in self.params.items()}
        self.net, self.optimizer = backend.net(), backend.optimizer(self.params, self.state)
        self._set_loss()
        self._group()
        self.steps = torch.zeros((), dtype=torch.int64, device=self.device)
        self.epoch = torch.zeros((), dtype=torch.int64, device=self.device)
        # What is kept of all heads, running or not; `ids` says which of them still are.
        heads = len(jobs)
        self.ids = torch.arange(heads, device=self.device)
        #: Validation loss and stability of each epoch.
        self.history = torch.full((self.max_epochs, 2, heads), torch.nan, device=self.device)
        self.epochs = torch.zeros(heads, dtype=torch.int64, device=self.device)
        standardized = self.folds[seen[0]].moments is not None
        self.results = empty_result(
            heads,
            inputs.num_clips,
            network_of(self.params) if weights else {},
            dtype,
            tuple(shape) if standardized else (),
            pairs=self.ends is not None,
        )

    def train_epoch(self, batches: Sequence[Batch]) -> None:
        """Take every step of an epoch and judge the heads; never waits for the device."""
        for batch in batches:
            self._step(batch)
        self._judge()

    def _step(self, batch: Batch) -> None:
        state = self.state
        batch = self.batches.both(batch)
        groups = self.net.take(self.views, batch)
        dropout = Dropout(state.dropout, state.seed, self.steps) if self.drops else None
        scores = self.net.forward(self.params, groups, state.bounds, dropout)
        grad, mask = self.loss.step(scores, batch)
        self.optimizer.begin(None if batch.everybody else mask.any(1))
        self.net.backward(grad, self.optimizer)
        if isinstance(self.loss, PairStepLoss):
            self.loss.backward(self.optimizer)
        self.optimizer.step()
        if self.drops:
            self.steps += 1

    def _judge(self) -> None:
        """Measure on the validation sets, keep the best weights, and see who is finished."""
        loss, stability = self._watch() if self.has_validation else (None, None)
        progress = Progress(self.epoch, self.ids, self.epochs, self.history)
        better = self.backend.judge(self.state, progress, loss, stability)
        for name, p in self.params.items():
            self.backend.keep_best(self.best[name], p, better)
        self.epoch += 1

    def _watch(self) -> tuple[Tensor, Tensor]:
        """Score the validation sets; return the loss [H] and the scores' stability [H]."""
        state = self.state
        target = state.validation_target
        scores = target.new_zeros(*target.shape, *self.outputs)
        for fold, _, heads in self.groups:
            rows = self.folds[fold].validation
            if rows is not None:
                params = {name: p[heads] for name, p in self.params.items()}
                some = self.net.score(params, rows, state.bounds[heads])
                # Without the clip that padding windows belong to.
                width = min(some.shape[1], scores.shape[1])
                scores[heads, :width] = some[:, :width]
        loss = self.loss.validation(scores)
        pred = state.predictions(means(scores))
        stability = self.backend.stability(pred, state.validation_before, state.validation_mask)
        state.validation_before.copy_(pred)
        return loss, stability

    def retire(self) -> int:
        """Take the finished heads out of the stack; return how many still run.

        Waits for the device. While few have finished they stay: training them on for nothing
        costs less than rebuilding the stack.
        """
        finished = self.state.finished.cpu()
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
        state, results = self.state.select(here), self.results
        keys = _runs([self.keys[h] for h in chosen.tolist()])
        with self.backend.scoring():
            scores = self._score_all(best, state.bounds, keys)
        if self.ends is not None and results.preference is not None:
            pairs = state.pair_winner, state.pair_weight, self.ends
            tau = given_tau(self.jobs[0].recipe.loss, state.loss_numbers)
            found = finished(best, scores, state.label_std, pairs, alone=self.alone, tau=tau)
            best, scores, results.preference[ids] = found
        std, mean = state.label_std.cpu(), state.label_mean.cpu()
        predictions = scores * std[:, None] + mean[:, None]
        diverged = state.diverged.cpu() | ~predictions.isfinite().all(1)
        results.predictions[ids] = predictions.masked_fill(diverged[:, None], torch.nan)
        results.diverged[ids] = diverged
        results.best_epoch[ids] = state.best_epoch.cpu()
        results.label_mean[ids], results.label_std[ids] = mean, std
        for name in results.params:
            if len(ids) == len(self.jobs):
                results.params[name] = best[name].cpu()
            else:
                results.params[name][ids] = best[name].cpu()
        for fold, _, heads in keys:
            moments = self.folds[fold].moments
            if results.row_mean is not None and results.row_std is not None and moments is not None:
                results.row_mean[ids[heads]] = moments[0].cpu()
                results.row_std[ids[heads]] = moments[1].cpu()

    def _score_all(
        self, params: Mapping[str, Tensor], bounds: Tensor, keys: Sequence[Run]
    ) -> Tensor:
        """Return the scores [H, C] of all clips, on the CPU."""
        num_clips = self.inputs.num_clips
        scores = torch.empty(len(bounds), num_clips, dtype=self.dtype)
        for start in range(0, num_clips, EVAL_CLIPS):
            stop = min(start + EVAL_CLIPS, num_clips)
            clips = torch.arange(start, stop, device=self.device)
            for fold, _, heads in keys:
                rows = take_rows(self.folds[fold].rows, self.inputs.offsets, clips)
                some = {name: p[heads] for name, p in params.items()}
                block = means(score_rows(self.head, some, rows, bounds=bounds[heads]))
                scores[heads, start:stop] = block[:, : len(clips)].cpu()
        return scores

    def _select(self, chosen: Tensor) -> None:
        """Go on with ``chosen`` heads only."""
        here = chosen.to(self.device)
        self.keys = [self.keys[h] for h in chosen.tolist()]
        self.state = self.state.select(here)
        self.ids = self.ids.index_select(0, here)
        select_(self.params, here)
        select_(self.best, here)
        self.optimizer.select(here, self.params, self.state)
        self._set_loss()
        self._group()

    def _set_loss(self) -> None:
        self.loss = self.backend.loss(self.state)
        if isinstance(self.loss, PairStepLoss):
            self.loss.bind(self.params)

    def _group(self) -> None:
        """Find the heads that see the same rows."""
        self.groups = _runs(self.keys)
        self.views = [
            View(self.folds[fold].rows, self.inputs.offsets, order, heads)
            for fold, order, heads in self.groups
        ]

    def snapshot(self) -> dict[str, Tensor]:
        """Return all that training changes, by name, between two epochs; not copied."""
        parts: dict[str, Mapping[str, Tensor | None]] = {
            "": {name: getattr(self, name) for name in _CHANGING},
            "params/": self.params,
            "best/": self.best,
            "optimizer/": self.optimizer.memory(),
            "state/": self.state.written(),
            "results/params/": self.results.params,
            "results/": {name: getattr(self.results, name) for name in _STORED},
        }
        return {
            part + name: value
            for part, values in parts.items()
            for name, value in values.items()
            if value is not None
        }

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from the snapshot of another stack of the same inputs and jobs.

        Raises:
            ValueError: it is of a stack of another kind; this one is as it was.
        """
        ids = kept.get("ids", torch.zeros(0))
        chosen = ids[(ids >= 0) & (ids < len(self.jobs))].long()
        like = {name: (value.dtype, value.shape) for name, value in self.snapshot().items()}
        heads = len(self.jobs)
        for name, (dtype, shape) in like.items():
            running = name.startswith(("ids", "params/", "best/", "optimizer/", "state/"))
            wanted = torch.Size([len(chosen), *shape[1:]]) if running else shape
            if name not in kept or (kept[name].dtype, kept[name].shape) != (dtype, wanted):
                raise ValueError(f"{name} is not that of {heads} such heads")
        if not len(chosen):
            raise ValueError("none of its heads runs")
        if len(chosen) < heads:
            self._select(chosen)
        for name, value in self.snapshot().items():
            value.copy_(kept[name])

    def finish(self) -> Result:
        """Return everything, once no head runs."""
        loss, stability = self.history[: int(self.epoch)].cpu().unbind(1)
        return self.results._replace(validation_loss=loss, stability=stability)


def _runs(keys: Sequence[tuple[Seen, int]]) -> list[Run]:
    """Return the runs of equal keys, heads that see the same rows."""
    runs, start = [], 0
    for h in range(1, len(keys) + 1):
        if h == len(keys) or keys[h] != keys[start]:
            runs.append((*keys[start], slice(start, h)))
            start = h
    return runs
