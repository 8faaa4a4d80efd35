"""What an epoch's validation loss decides: whose weights are kept, and who is finished."""

import torch
from torch import Tensor

from qamro_cache.evaluation import metrics
from qamro_cache.training.state import HeadState


def judge(state: HeadState, number: Tensor, loss: Tensor | None) -> Tensor:
    """Write the heads' progress into ``state``; never waits for the device.

    Args:
        state: of the heads, whether or not they still run.
        number: [] int64 epochs trained, this one included.
        loss: [H] on the validation sets; None where no head has one.

    Returns:
        [H] bool, the heads whose weights are the best so far.
    """
    running = ~state.finished
    last = number >= state.max_epochs
    keep = running & last & ~state.has_validation
    if loss is not None:
        state.finite.logical_and_(loss.isfinite() | ~state.has_validation)
        better = running & state.has_validation & (loss < state.best_loss)
        state.best_loss.copy_(torch.where(better, loss, state.best_loss))
        keep |= better
    state.best_epoch.copy_(torch.where(keep, number, state.best_epoch))
    patient = number - state.best_epoch < state.patience
    # Not what becomes of a head that is finished and only waits to be taken out.
    state.diverged.logical_or_(running & ~state.finite)
    state.finished.logical_or_(last | ~state.finite | (state.has_validation & ~patient))
    return keep


def stability(pred: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """Return the SRCC [H] of predictions [H, S] with those of the epoch before."""
    return metrics.srcc(pred, before, mask.to(torch.float64))


def keep_best(best: Tensor, p: Tensor, better: Tensor) -> None:
    """Copy p [H, ...] to ``best`` for the heads where ``better`` [H] is true."""
    torch.where(better.view(-1, *[1] * (p.ndim - 1)), p, best, out=best)
