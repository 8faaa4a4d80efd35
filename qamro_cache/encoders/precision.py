"""What an encoder computes in: full float32, TF32, or half precision by autocast."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from qamro_cache.devices import float32_products, refuse_capability
from qamro_cache.encoders.protocol import EncoderInfo, EncoderOptions
from qamro_cache.errors import QamroError

#: Names a user may give, and what autocast computes in (None: no autocast).
PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "tf32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_gradient = ContextVar("qamro_gradient", default=False)


@contextmanager
def with_gradient() -> Iterator[None]:
    """Let encoders that are ``differentiable`` keep, inside, the gradient by their windows."""
    token = _gradient.set(True)
    try:
        yield
    finally:
        _gradient.reset(token)


def choose_precision(info: EncoderInfo, options: EncoderOptions, device: str) -> str:
    """Return what an encoder computes in: as it is named, or for ``auto`` what loses nothing.

    That is float16 on a GPU where tests hold its error under 1 % (``info.half``), else float32.
    """
    if options.precision != "auto":
        return options.precision
    half = info.half and options.backend == "ours" and torch.device(device).type == "cuda"
    return "float16" if half else "float32"


def check_precision(precision: str, device: str) -> None:
    """Raise a QamroError for an unknown precision, or one that the device cannot compute in."""
    if precision not in PRECISIONS:
        raise QamroError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    if precision == "tf32" and torch.device(device).type != "cuda":
        raise QamroError(f"precision tf32 needs a CUDA device, not {device!r}; use float32")
    refuse_capability(precision, device)


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Inference mode (but see `with_gradient`) at ``precision``, whatever the TF32 switches are.

    Convolutions use TF32 by PyTorch's default, so that plain float32 must switch it off; both
    switches are put back at the end.
    """
    tf32, dtype = precision == "tf32", PRECISIONS[precision]
    with (
        float32_products(tf32=tf32),
        _convolutions(tf32),
        torch.inference_mode(not _gradient.get()),
        torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        yield


@contextmanager
def _convolutions(tf32: bool) -> Iterator[None]:
    try:
        before = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # chosen by the newer interface, operation by operation
        switch = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        newer, switch.fp32_precision = switch.fp32_precision, "tf32" if tf32 else "ieee"
        try:
            yield
        finally:
            switch.fp32_precision = newer
        return
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
