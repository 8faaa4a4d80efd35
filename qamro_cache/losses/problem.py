"""What every form of the loss works on: checked, flattened to rows, and normalized."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from qamro_cache.losses.bins import Bins, resolve_bins
from qamro_cache.losses.terms import NORMALIZATIONS

Scalar = float | Tensor
LabelRange = tuple[Scalar, Scalar]


@dataclass(frozen=True)
class RankingProblem:
    """One ranking problem a row; tensors have one row where all rows share them.

    Attributes:
        pred: [R, N] predictions, in their own dtype; anything where masked.
        y: [1 | R, N] labels; anything where masked.
        mask: [1 | R, N] of the samples that count, or None when all do.
        alpha: [1 | R, 1] margin per unit of label.
        beta: [1 | R, 1] the weight of a pair whose quality is 1.
        label_range: lowest and highest label, each [1 | R, 1], or None for the row's own.
        bins: the bins of the track-2 variant; the labels in none of them are masked.
        stderr: [1 | R, N] standard error of each label, anything where masked, or None.
    """

    pred: Tensor
    y: Tensor
    mask: Tensor | None
    alpha: Tensor
    beta: Tensor
    label_range: tuple[Tensor, Tensor] | None = None
    bins: Bins | None = None
    stderr: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: double for double predictions, single for the rest."""
        return result_dtype(self.pred)

    def rows(self, part: slice) -> "RankingProblem":
        """The problem of some rows; shared rows stay shared."""

        def cut(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(cut, value))
            shared = not isinstance(value, Tensor) or value.shape[0] == 1
            return value if shared else value[part]

        own = {field.name: cut(getattr(self, field.name)) for field in fields(self)}
        return RankingProblem(**own | {"pred": self.pred[part]})

    @property
    def shares_labels(self) -> bool:
        """Whether the pairs and their labels are the same in every row (their masks may differ)."""
        return self.y.shape[0] == 1 and (self.stderr is None or self.stderr.shape[0] == 1)

    def unmasked(self, x: Tensor) -> Tensor:
        """`x` in float64, with 0 where masked: a masked value may be anything, NaN too."""
        return x.double() if self.mask is None else torch.where(self.mask, x.double(), 0)

    def scores(self) -> Tensor:
        """S = alpha * y - p [R, N] in float64: the hinge of a pair is relu(s_i - s_j)."""
        return self.unmasked(self.alpha * self.y.double() - self.pred.double())

    def quality(self) -> Tensor:
        """N [1 | R, N] in float64: the label in [0, 1], or the weight of its bin."""
        if self.bins is not None:
            return self.bins.quality(self.y)
        y = self.unmasked(self.y)
        if self.label_range is None:
            low, high = self._batch_range(y)
        else:
            low, high = self.label_range
        span = high - low
        return ((y - low) / torch.where(span > 0, span, 1)).clamp(0, 1)

    def _batch_range(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest of the row's own labels, as in the authors' code."""
        if y.shape[-1] == 0:
            return y.new_zeros(1, 1), y.new_zeros(1, 1)
        if self.mask is None:
            return y.amin(-1, keepdim=True), y.amax(-1, keepdim=True)
        low = torch.where(self.mask, y, torch.inf).amin(-1, keepdim=True)
        high = torch.where(self.mask, y, -torch.inf).amax(-1, keepdim=True)
        return low, high


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
        # Leading dimensions broadcast; one value for all samples would be a mistake.
        if value.shape[-1:] == pred.shape[-1:]:
            return as_rows(value.expand(pred.shape))
    except RuntimeError:
        pass
    raise ValueError(
        f"{name} has shape {tuple(value.shape)}: expected {tuple(pred.shape)} like pred, "
        f"or [{pred.shape[-1]}]"
    )


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
    """Flatten the arguments of `qamro_loss` to rows; reads no tensor's values on the host.

    Raises:
        ValueError: a shape, a name or a plain number is wrong.
    """
    if pred.dim() == 0 or not pred.is_floating_point():
        raise ValueError(
            f"pred must be a floating tensor [..., N], got {pred.dtype} {tuple(pred.shape)}"
        )
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize is {normalize!r}: use one of {', '.join(NORMALIZATIONS)}")
    for name, number in (("alpha", alpha), ("beta", beta)):
        if not isinstance(number, Tensor) and not (number >= 0 and math.isfinite(number)):
            raise ValueError(f"{name} is {number}: it must be a finite number of at least 0")
    y = per_sample(target, pred, "target").to(pred.device)
    if not y.is_floating_point():
        y = y.double()
    rows_mask = None
    if mask is not None:
        rows_mask = per_sample(mask, pred, "mask").to(pred.device, torch.bool)
    bins = resolve_bins(weights)
    if bins is not None:
        inside = bins.contain(y)
        rows_mask = inside if rows_mask is None else rows_mask & inside
    return RankingProblem(
        pred=as_rows(pred),
        y=y,
        mask=rows_mask,
        alpha=per_row(alpha, pred, "alpha"),
        beta=per_row(beta, pred, "beta"),
        label_range=None if bins is not None else _range(normalize, label_range, pred),
        bins=bins,
        stderr=None if stderr is None else per_sample(stderr, pred, "stderr").to(pred.device),
    )


def _range(
    normalize: str, label_range: LabelRange | None, pred: Tensor
) -> tuple[Tensor, Tensor] | None:
    if normalize == "batch":
        return None
    if label_range is None:
        raise ValueError(
            f"label_range is None: normalize={normalize!r} needs label_range=(low, high)"
        )
    low, high = label_range
    numbers = not isinstance(low, Tensor) and not isinstance(high, Tensor)
    if numbers and not 0 < high - low < math.inf:
        raise ValueError(f"label_range is {label_range}: high must be above low, both finite")
    return per_row(low, pred, "label_range[0]"), per_row(high, pred, "label_range[1]")


def finish(scores: Tensor, slope: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [R] and gradient [R, N] from the slopes, not yet divided by the number of pairs.

    The loss is homogeneous of degree one in the scores, so its value is
    sum_i s_i * dL/ds_i (Euler). A score that is not finite makes both so.

    Args:
        scores: [R, N] in float64.
        slope: [R, N] sum of the weights of the pairs in which a sample's score should fall,
            less those in which it should rise.
        pairs: [1 | R] the number of pairs.
    """
    pairs = pairs.clamp(min=1)
    # Slopes sum to 0, so that any constant may be taken off the scores: the mean rounds least.
    centered = scores - scores.mean(-1, keepdim=True)
    value = (centered * slope).sum(-1) / pairs
    return value, (scores * 0 - slope) / pairs.unsqueeze(-1)


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
        bad = ~((span > 0) & torch.isfinite(span))
        _refuse(span, bad, "label_range: high - low", "high must be above low, both finite", None)
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
