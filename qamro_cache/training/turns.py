"""How chunks are trained: side by side on a CPU; in turn on a GPU, smaller where memory ends."""

import gc
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import NamedTuple

import torch
from torch import Tensor

from qamro_cache import self_check
from qamro_cache.errors import QamroError, words_of
from qamro_cache.training.backend import Backend
from qamro_cache.training.chunks import evenly
from qamro_cache.training.inputs import Inputs
from qamro_cache.training.result import Result

logger = logging.getLogger("qamro_cache")


class Chunk(NamedTuple):
    """Heads of one stack: their positions among the jobs, and what they are trained from and by."""

    positions: list[int]
    inputs: Inputs
    choose: Callable[[], Backend]
    begun: Mapping[str, Tensor] | None = None


Train = Callable[[Chunk], Result]
Trained = Iterator[tuple[list[int], Result]]


def side_by_side(plan: Sequence[Chunk], train: Train, stop: Event) -> Trained:
    """Train chunks side by side, one thread each; ``stop`` is set where nobody takes the rest.

    A stack's products are many and small: a core to a chunk keeps its weights in that core's
    cache and waits for nobody. It also makes a result independent of the number of cores.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(plan)))
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(
        workers, "qamro-train", initializer=torch.set_num_threads, initargs=(1,)
    )
    waiting = list(reversed(plan))
    running: dict[Future[Result], list[int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                part = waiting.pop()
                running[pool.submit(train, part)] = part.positions
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def in_turn(plan: Sequence[Chunk], train: Train) -> Trained:
    """Train chunks one after another on a GPU; what does not work there is tried another way.

    Where memory runs out, a chunk's halves are trained from their start. Where a kernel cannot be
    compiled or launched for the real shapes, the chunk is, and all others are, in plain torch.

    Raises:
        QamroError: the memory does not even take one head, or the GPU itself has failed.
    """
    waiting = list(reversed(plan))
    while waiting:
        part = waiting.pop()
        try:
            result = train(part)
        except torch.OutOfMemoryError:
            waiting += reversed(_halves(part))
        except Exception as error:
            if not _is_of_a_kernel(error):
                raise _explained(error) from error
            self_check.give_up(str(error))
            waiting.append(part)
        else:
            yield part.positions, result
            continue
        # What the attempt held is free only outside of those clauses.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _halves(part: Chunk) -> list[Chunk]:
    heads = len(part.positions)
    if heads == 1:
        raise QamroError(
            "one head does not fit into the memory of the GPU beside its clips; free some, ask for "
            "smaller --widths or --batch-size, or use --device cpu"
        )
    half = -(-heads // 2)
    logger.warning("the GPU's memory ran out; going on with %d heads at once", half)
    # A stack that was begun had all of them.
    return [part._replace(positions=some, begun=None) for some in evenly(part.positions, half)]


def _is_of_a_kernel(error: Exception) -> bool:
    """Whether an error came out of Triton: its compiler, its launcher, or what they call."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = (str(frame.f_globals.get("__name__", "")) for frame in frames)
    return any(name.partition(".")[0] == "triton" for name in names)


def _explained(error: Exception) -> Exception:
    reason = words_of(error)
    if not isinstance(error, RuntimeError) or "CUDA" not in reason:
        return error
    return QamroError(
        f"the GPU failed while heads were trained ({reason}); give the same command again "
        "with --no-kernels"
    )
