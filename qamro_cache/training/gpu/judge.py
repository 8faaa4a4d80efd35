"""The judgment of an epoch in one launch on a GPU, where PyTorch's operations would be forty."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from qamro_cache.training.state import HeadState
from qamro_cache.training.stopping import Progress

_BLOCK = 128


@triton.jit(do_not_specialize=["heads", "all_heads"])
def _judge(
    loss, stability, validated, max_epochs, patience, finite, diverged, finished, best_loss,
    best_epoch, epoch, ids, epochs, history, better, heads, all_heads,
    WATCHED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What `qamro_cache.training.stopping.judge` does, line by line; a thread takes a head."""
    h = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = h < heads
    row = tl.load(epoch)
    number = row + 1
    place = tl.load(ids + h, mask=here, other=0)
    running = tl.load(finished + h, mask=here, other=1) == 0
    valid = tl.load(validated + h, mask=here, other=0) != 0
    good = tl.load(finite + h, mask=here, other=1) != 0
    last = number >= tl.load(max_epochs + h, mask=here, other=0)
    keep = running & last & (valid == 0)
    if WATCHED:
        value = tl.load(loss + h, mask=here, other=0.0)
        good = good & ((value - value == 0) | (valid == 0))
        tl.store(finite + h, good.to(tl.uint8), mask=here)
        least = tl.load(best_loss + h, mask=here, other=0.0)
        won = running & valid & (value < least)
        tl.store(best_loss + h, tl.where(won, value, least), mask=here)
        keep = keep | won
        watched = running & valid
        stable = tl.load(stability + h, mask=here, other=0.0)
        at = history + row * 2 * all_heads + place
        tl.store(at, tl.where(watched, value.to(tl.float32), float("nan")), mask=here)
        tl.store(at + all_heads, tl.where(watched, stable.to(tl.float32), float("nan")), mask=here)
    best = tl.where(keep, number, tl.load(best_epoch + h, mask=here, other=0))
    tl.store(best_epoch + h, best, mask=here)
    patient = number - best < tl.load(patience + h, mask=here, other=0)
    fallen = (tl.load(diverged + h, mask=here, other=0) != 0) | (running & (good == 0))
    tl.store(diverged + h, fallen.to(tl.uint8), mask=here)
    over = (running == 0) | last | (good == 0) | (valid & (patient == 0))
    tl.store(finished + h, over.to(tl.uint8), mask=here)
    trained = tl.load(epochs + place, mask=here, other=0)
    tl.store(epochs + place, trained + running.to(tl.int64), mask=here)
    tl.store(better + h, keep.to(tl.uint8), mask=here)


def judge(
    state: HeadState, progress: Progress, loss: Tensor | None, stability: Tensor | None
) -> Tensor:
    """See `qamro_cache.training.stopping.judge`."""
    heads = len(state.finished)
    better = torch.empty_like(state.finished)
    watched = loss is not None and stability is not None
    bits = [
        flag.view(torch.uint8)
        for flag in (state.has_validation, state.finite, state.diverged, state.finished, better)
    ]
    with torch.cuda.device_of(better):  # Triton launches on the current device
        _judge[(triton.cdiv(heads, _BLOCK),)](
            loss if watched else state.best_loss, stability if watched else state.best_loss,
            bits[0], state.max_epochs, state.patience, *bits[1:4], state.best_loss,
            state.best_epoch, progress.epoch, progress.ids, progress.epochs, progress.history,
            bits[4], heads, progress.history.shape[2], WATCHED=watched, BLOCK=_BLOCK,
        )  # fmt: skip
    return better
