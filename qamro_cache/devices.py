"""Which torch device the work is done on, and whether it is there."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from qamro_cache.errors import QamroError, words_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

logger = logging.getLogger("qamro_cache")


def refuse_device(name: str) -> None:
    """Refuse a device that was named and is not there; torch is loaded only for a GPU's name."""
    if name:
        usable_device(name)


def usable_device(name: str = "") -> str:
    """Return a torch device that tensors can be made on; a GPU if there is one and none is named.

    Raises:
        QamroError: no such device in this machine, or in this build of torch.
    """
    if name == "cpu":
        return name
    import torch

    if not name:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
        if kind == "meta":
            raise RuntimeError("it holds no values")
        # Copying there and back: some devices exist by name alone.
        torch.zeros(1).to(name).cpu()
    except Exception as error:  # each backend has its own
        raise QamroError(
            f"device {name!r} cannot be used here ({words_of(error)}); use cpu, cuda or cuda:N"
        ) from None
    return name


def refuse_capability(precision: str, device: "str | torch.device") -> None:
    """Refuse TF32 and bfloat16 on a GPU of before 2020, which has no arithmetic for them.

    Raises:
        QamroError: its compute capability is below 8.0.
    """
    import torch

    if precision not in ("tf32", "bf16", "bfloat16") or torch.device(device).type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < (8, 0):
        raise QamroError(
            f"precision {precision!r} needs a GPU of compute capability 8.0 or more, this one has "
            f"{found[0]}.{found[1]}; use float32"
        )


def pinned(shape: Sequence[int], dtype: "torch.dtype") -> "torch.Tensor":
    """Return room that a GPU copies from without waiting; of plain memory where that is used up.

    A copy then only takes longer, which is said once.
    """
    import torch

    try:
        return torch.empty(*shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        _say_unpinned(str(error).partition("\n")[0])
        return torch.empty(*shape, dtype=dtype)


def sent(values: "npt.ArrayLike", device: "torch.device") -> "torch.Tensor":
    """Return values as a tensor on a device, of their own type; waits for nothing."""
    import numpy as np
    import torch

    here = torch.from_numpy(np.asarray(values))
    if device.type != "cuda":
        return here.to(device)
    return pinned(here.shape, here.dtype).copy_(here).to(device, non_blocking=True)


@cache
def _say_unpinned(reason: str) -> None:
    logger.info("no memory that a GPU copies from by itself (%s); copies take longer", reason)


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Compute a GPU's float32 products in TF32 or not, whatever the process has chosen."""
    import torch

    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        # It was chosen by the newer interface alone; this one sets both, so that they agree.
        newer = torch.backends.cuda.matmul.fp32_precision
        before = "high" if newer == "tf32" else "highest"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
