"""What an epoch's validation loss decides: whose weights are kept, and who is finished."""

from typing import NamedTuple

import torch
from torch import Tensor

from qamro_cache.evaluation import metrics
from qamro_cache.training.state import HeadState


class Progress(NamedTuple):
    """What is kept of all N heads of a stack, running or not; written, never replaced.

    Attributes:
        epoch: [] int64, epochs trained before this one.
        ids: [H] int64, which heads still run.
        epochs: [N] int64 that each head was trained.
        history: [epochs, 2, N] validation loss and stability.
    """

    epoch: Tensor
    ids: Tensor
    epochs: Tensor
    history: Tensor


def judge(
    state: HeadState, progress: Progress, loss: Tensor | None, stability: Tensor | None
) -> Tensor:
    """Write the heads' progress; never waits for the device.

    Args:
        state: of the heads, whether or not they still run.
        progress: of the stack; its epoch is not counted up.
        loss: [H] on the validation sets; None where no head has one.
        stability: [H] of the predictions on them; None likewise.

    Returns:
        [H] bool, the heads whose weights are the best so far.
    """
    running, number = ~state.finished, progress.epoch + 1
    last = number >= state.max_epochs
    keep = running & last & ~state.has_validation
    if loss is not None and stability is not None:
        figures = torch.stack([x.to(progress.history.dtype) for x in (loss, stability)])
        figures = torch.where(running & state.has_validation, figures, torch.nan)
        # The number of the epoch is on the device: written by index, nothing waits for it.
        row = torch.full_like(progress.history[0], torch.nan).index_copy_(1, progress.ids, figures)
        progress.history.index_copy_(0, progress.epoch.reshape(1), row.unsqueeze(0))
        state.finite.logical_and_(loss.isfinite() | ~state.has_validation)
        better = running & state.has_validation & (loss < state.best_loss)
        state.best_loss.copy_(torch.where(better, loss, state.best_loss))
        keep |= better
    state.best_epoch.copy_(torch.where(keep, number, state.best_epoch))
    patient = number - state.best_epoch < state.patience
    # Not what becomes of a head that is finished and only waits to be taken out.
    state.diverged.logical_or_(running & ~state.finite)
    state.finished.logical_or_(last | ~state.finite | (state.has_validation & ~patient))
    progress.epochs[progress.ids] += running
    return keep


def stability(pred: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """Return the SRCC [H] of predictions [H, S] with those of the epoch before."""
    return metrics.srcc(pred, before, mask.to(torch.float64))


def keep_best(best: Tensor, p: Tensor, better: Tensor) -> None:
    """Copy p [H, ...] to ``best`` for the heads where ``better`` [H] is true."""
    torch.where(better.view(-1, *[1] * (p.ndim - 1)), p, best, out=best)
