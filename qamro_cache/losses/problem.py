"""What every form of the loss works on: checked, flattened to rows, and normalised."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qamro_cache.losses.bins import Bins, resolve_bins

Scalar = float | Tensor
LabelRange = tuple[Scalar, Scalar]
NORMALIZATIONS = ("batch", "train", "scale")


@dataclass(frozen=True)
class RankingProblem:
    """One ranking problem a row; `y`, `quality`, ... have one row where all rows share them.

    Attributes:
        s: [R, N] ``alpha * label - prediction``, so that the hinge of a pair is
            ``relu(s_i - s_j)``; 0 where masked.
        y: [1 | R, N] labels, 0 where masked.
        quality: [1 | R, N] the labels in [0, 1], or the weight of their bin.
        beta: [1 | R, 1] the weight of a pair whose quality is 1.
        mask: [1 | R, N] of the samples that count, or None when all do.
        bin_index: [1 | R, N] number of each label's bin in the binned variant, else None.
        bins: the bins themselves, else None.
        stderr: [1 | R, N] standard error of each label, 0 where masked, or None.
    """

    s: Tensor
    y: Tensor
    quality: Tensor
    beta: Tensor
    mask: Tensor | None = None
    bin_index: Tensor | None = None
    bins: Bins | None = None
    stderr: Tensor | None = None

    def rows(self, start: int, stop: int) -> "RankingProblem":
        """The problem of rows ``start`` to ``stop``; shared rows stay shared."""

        def cut(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.shape[0] == 1 else x[start:stop]

        return replace(
            self,
            s=self.s[start:stop],
            y=_present(cut(self.y)),
            quality=_present(cut(self.quality)),
            beta=_present(cut(self.beta)),
            mask=cut(self.mask),
            bin_index=cut(self.bin_index),
            stderr=cut(self.stderr),
        )


def _present(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


def result_dtype(pred: Tensor) -> torch.dtype:
    """The dtype of a loss over ``pred``: its own, but float32 for the half types."""
    return torch.float32 if pred.dtype in (torch.float16, torch.bfloat16) else pred.dtype


def as_rows(x: Tensor) -> Tensor:
    """[..., N] as [R, N], for N = 0 too."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def per_row(value: Scalar, pred: Tensor, name: str) -> Tensor:
    """A number or a tensor of pred's leading shape, as [1 | R, 1] in float64.

    Raises:
        ValueError: the tensor's shape does not broadcast to pred's leading shape.
    """
    if not isinstance(value, Tensor):
        # Filled on the device: a copy from the host could not be captured in a CUDA graph.
        return torch.full((1, 1), float(value), dtype=torch.float64, device=pred.device)
    lead = pred.shape[:-1]
    value = value.to(pred.device, torch.float64)
    if value.numel() == 1:
        return value.reshape(1, 1)
    try:
        return value.expand(lead).reshape(-1, 1)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}: give a number or a tensor of pred's "
            f"leading shape {tuple(lead)}"
        ) from None


def per_sample(value: Tensor, pred: Tensor, name: str) -> Tensor:
    """A tensor [N] or [..., N], as [1 | R, N].

    Raises:
        ValueError: its shape does not broadcast to pred's.
    """
    if value.shape == pred.shape[-1:]:
        return value.unsqueeze(0)
    try:
        return as_rows(value.expand(pred.shape))
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}: expected {tuple(pred.shape)} like pred, "
            f"or [{pred.shape[-1]}]"
        ) from None


def prepare(
    pred: Tensor,
    target: Tensor,
    *,
    alpha: Scalar,
    beta: Scalar,
    normalize: str,
    label_range: LabelRange | None,
    weights: str | tuple[object, object] | None,
    stderr: Tensor | None,
    mask: Tensor | None,
) -> RankingProblem:
    """Flatten to rows and normalise the labels; reads no tensor's values on the host.

    Arguments are those of `qamro_loss`. ``s`` is computed in float64 and rounded once, to
    float32 for predictions of float32 and below.

    Raises:
        ValueError: a shape, a name or a plain number is wrong.
    """
    if pred.dim() == 0 or not pred.is_floating_point():
        raise ValueError(
            f"pred must be a floating tensor [..., N], got {pred.dtype} {tuple(pred.shape)}"
        )
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize is {normalize!r}: use one of {', '.join(NORMALIZATIONS)}")
    bins = resolve_bins(weights)
    y = per_sample(target, pred, "target").to(pred.device)
    if not y.is_floating_point():
        y = y.double()
    elif y.dtype in (torch.float16, torch.bfloat16):
        y = y.float()
    m = None
    if mask is not None:
        m = per_sample(mask, pred, "mask").to(pred.device, torch.bool)
        y = torch.where(m, y, 0)
    a, b = per_row(alpha, pred, "alpha"), per_row(beta, pred, "beta")
    for name, number in (("alpha", alpha), ("beta", beta)):
        if not isinstance(number, Tensor) and not (number >= 0 and math.isfinite(number)):
            raise ValueError(f"{name} is {number}: it must be a finite number of at least 0")

    bin_index = None
    if bins is not None:
        bin_index, inside = bins.index(y)
        m = inside if m is None else m & inside
        quality = bins.quality(y.device)[bin_index]
    elif normalize == "batch":
        quality = _by_batch(y, m)
    else:
        if label_range is None:
            raise ValueError(
                f"label_range is None: normalize={normalize!r} needs label_range=(low, high)"
            )
        low, high = label_range
        if not isinstance(low, Tensor) and not isinstance(high, Tensor) and not high > low:
            raise ValueError(f"label_range is {label_range}: high must be above low")
        lo, hi = per_row(low, pred, "label_range[0]"), per_row(high, pred, "label_range[1]")
        quality = ((y - lo) / (hi - lo)).clamp(0, 1)

    s = a * y - as_rows(pred)
    if m is not None:
        # A masked prediction may be anything, NaN too.
        s = torch.where(m, s, 0)
    compute = torch.promote_types(result_dtype(pred), torch.float32)
    se = None
    if stderr is not None:
        se = per_sample(stderr, pred, "stderr").to(pred.device, compute)
        se = se if m is None else torch.where(m, se, 0)
    return RankingProblem(
        s=s.to(compute),
        y=y,
        quality=quality.to(compute),
        beta=b.to(compute),
        mask=m,
        bin_index=bin_index,
        bins=bins,
        stderr=se,
    )


def _by_batch(y: Tensor, mask: Tensor | None) -> Tensor:
    """Min-max over the row's own samples, as the authors' code does; 0 for equal labels."""
    if y.shape[-1] == 0:
        return y
    y = y.double()
    if mask is None:
        low, high = torch.aminmax(y, dim=-1, keepdim=True)
    else:
        low = torch.where(mask, y, torch.inf).amin(-1, keepdim=True)
        high = torch.where(mask, y, -torch.inf).amax(-1, keepdim=True)
    span = high - low
    return torch.where(span > 0, (y - low) / torch.where(span > 0, span, 1), 0).clamp(0, 1)


def check_values(
    target: Tensor,
    *,
    alpha: Scalar,
    beta: Scalar,
    label_range: LabelRange | None,
    stderr: Tensor | None,
    mask: Tensor | None,
) -> None:
    """Look at the values of the tensors, which waits for the device that holds them.

    Raises:
        ValueError: names the argument and the first bad value.
    """
    counted = None if mask is None else mask.to(torch.bool)
    _refuse(target, ~torch.isfinite(target), "target", "labels must be finite", counted)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if isinstance(value, Tensor):
            _refuse(value, ~((value >= 0) & torch.isfinite(value)), name, "it must be >= 0", None)
    if label_range is not None:
        low, high = (torch.as_tensor(end) for end in label_range)
        span = high - low.to(high.device)
        _refuse(span, ~(span > 0), "label_range: high - low", "high must be above low", None)
    if stderr is not None:
        bad = ~((stderr >= 0) & torch.isfinite(stderr))
        _refuse(stderr, bad, "stderr", "it must be >= 0", counted)


def _refuse(value: Tensor, bad: Tensor, name: str, rule: str, counted: Tensor | None) -> None:
    if counted is not None:
        bad = bad & counted.to(bad.device)
        value = value.expand(bad.shape)
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0])
        at = f"[{', '.join(map(str, where))}]" if where else ""
        raise ValueError(f"{name}{at} is {value[bad][0].item()}: {rule}")
