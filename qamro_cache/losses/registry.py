"""Losses by name, and their weighted sums: ``huber+qamro``, ``0.5*mse@standardized+qamro``.

**Units.** Predictions and labels are always handed over in raw label units. Each term names
the units it works in: ``raw`` (the default of every term, as in the paper's track 1) or
``standardized``, where it sees ``(x - label_mean) / label_std`` of both and the chain rule
brings its gradient back to raw predictions. The trainer passes the mean and scale of the
training fold's labels, one number or one a head. The authors' track 2 is
``mse@standardized+mae@standardized+qamro@raw``. On 0-to-100 ratings a raw Huber delta of 1 is
nearly the absolute error, so ``huber@standardized`` is what one means there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qamro_cache.losses import listwise, regression
from qamro_cache.losses.problem import (
    LabelRange,
    Scalar,
    as_rows,
    per_row,
    per_sample,
    result_dtype,
)
from qamro_cache.losses.qamro import DirectGradient, qamro_value_and_grad

UNITS = ("raw", "standardized")


@dataclass(frozen=True)
class LossSettings:
    """What the terms of a composed loss are set to; numbers, or tensors [H] with one a head.

    Attributes:
        alpha, beta, normalize, label_range, weights, method: of `qamro_loss`; `label_range` in
            raw label units.
        huber_delta: where Huber's loss turns linear, in the units of its term.
        margin: of ``margin``, in the units of its term.
        temperature: of ``listnet``, ``ranknet``, ``approx_ndcg`` and ``spearman``, in the units
            of their term; None is each one's own default (1, 1, 0.1, 0.1).
        label_mean, label_std: of the training fold's labels; what a ``standardized`` term
            subtracts and divides by.
    """

    alpha: Scalar = 0.2
    beta: Scalar = 7.0
    normalize: str = "batch"
    label_range: LabelRange | None = None
    weights: str | tuple[object, object] | None = None
    method: str = "auto"
    huber_delta: Scalar = 1.0
    margin: float = 0.1
    temperature: float | None = None
    label_mean: Scalar = 0.0
    label_std: Scalar = 1.0


@dataclass(frozen=True)
class Batch:
    """What a term sees: `pred` [H, N], `target`, `mask` and `stderr` [1 | H, N], its units."""

    pred: Tensor
    target: Tensor
    mask: Tensor | None
    stderr: Tensor | None
    units: str


TermFunction = Callable[[Batch, LossSettings], tuple[Tensor, Tensor]]


def _qamro(batch: Batch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    label_range = settings.label_range
    if batch.units == "standardized":
        if settings.weights is not None:
            raise ValueError(
                f"weights is {settings.weights!r}: bins are of raw labels, use qamro@raw"
            )
        if label_range is not None:
            low, high = label_range
            mean, scale = settings.label_mean, settings.label_std
            label_range = ((low - mean) / scale, (high - mean) / scale)
    return qamro_value_and_grad(
        batch.pred,
        _shared(batch.target),
        alpha=settings.alpha,
        beta=settings.beta,
        normalize=settings.normalize,
        label_range=label_range,
        weights=settings.weights,
        stderr=None if batch.stderr is None else _shared(batch.stderr),
        mask=None if batch.mask is None else _shared(batch.mask),
        method=settings.method,
    )


def _shared(x: Tensor) -> Tensor:
    return x[0] if x.shape[0] == 1 else x


def _huber(batch: Batch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    delta = per_row(settings.huber_delta, batch.pred, "huber_delta").to(batch.pred.dtype)
    return regression.huber(batch.pred, batch.target, batch.mask, delta)


def _plain(
    function: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]],
) -> TermFunction:
    return lambda batch, settings: function(batch.pred, batch.target, batch.mask)


def _listwise(loss: Callable[..., Tensor], *names: str) -> TermFunction:
    """A loss of `listwise` that takes the settings called `names`."""

    def term(batch: Batch, settings: LossSettings) -> tuple[Tensor, Tensor]:
        chosen = {name: getattr(settings, name) for name in names}
        function = listwise.with_settings(loss, **chosen)
        return listwise.by_autograd(function, batch.pred, batch.target, batch.mask)

    return term


@dataclass(frozen=True)
class TermInfo:
    """A named loss: whether it is a ``ranking`` or a ``regression`` loss, and what it is."""

    kind: str
    description: str
    function: TermFunction


TERMS: dict[str, TermInfo] = {
    "qamro": TermInfo("ranking", "quality-aware adaptive margins (arXiv 2508.08957)", _qamro),
    "margin": TermInfo(
        "ranking",
        "hinge with one margin for all pairs",
        _listwise(listwise.margin_ranking, "margin"),
    ),
    "ranknet": TermInfo(
        "ranking", "RankNet (Burges et al. 2005)", _listwise(listwise.ranknet, "temperature")
    ),
    "listnet": TermInfo(
        "ranking", "ListNet, top one (Cao et al. 2007)", _listwise(listwise.listnet, "temperature")
    ),
    "listmle": TermInfo("ranking", "ListMLE (Xia et al. 2008)", _listwise(listwise.listmle)),
    "approx_ndcg": TermInfo(
        "ranking",
        "1 - ApproxNDCG (Qin et al. 2010)",
        _listwise(listwise.approx_ndcg, "temperature"),
    ),
    "spearman": TermInfo(
        "ranking",
        "1 - Spearman's correlation of soft ranks (Qin et al. 2010)",
        _listwise(listwise.spearman, "temperature"),
    ),
    "huber": TermInfo("regression", "Huber's loss (Huber 1964)", _huber),
    "mse": TermInfo("regression", "mean squared error", _plain(regression.mse)),
    "mae": TermInfo("regression", "mean absolute error", _plain(regression.mae)),
    "ccc": TermInfo("regression", "1 - concordance correlation (Lin 1989)", _plain(regression.ccc)),
}


@dataclass(frozen=True)
class Term:
    """One summand: `coefficient` times the loss called `name`, in `units`."""

    name: str
    coefficient: float = 1.0
    units: str = "raw"

    def __post_init__(self) -> None:
        if self.name not in TERMS:
            raise ValueError(f"loss is {self.name!r}: use {', '.join(TERMS)}, joined by +")
        if self.units not in UNITS:
            raise ValueError(f"units of {self.name} is {self.units!r}: use {' or '.join(UNITS)}")
        if not 0 < self.coefficient < float("inf"):
            raise ValueError(
                f"coefficient of {self.name} is {self.coefficient}: it must be above 0"
            )

    def __str__(self) -> str:
        factor = "" if self.coefficient == 1 else f"{self.coefficient:g}*"
        return f"{factor}{self.name}@{self.units}"


@dataclass(frozen=True)
class ComposedLoss:
    """A weighted sum of named losses over stacked heads; `str` gives its canonical name."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.terms))

    @property
    def structure(self) -> tuple[tuple[str, str], ...]:
        """Names and units of the terms: what losses must share to differ in coefficients only."""
        return tuple((term.name, term.units) for term in self.terms)

    @property
    def has_ranking(self) -> bool:
        """Whether a term compares samples, so that a batch of one teaches it nothing."""
        return any(TERMS[term.name].kind == "ranking" for term in self.terms)

    def value_and_grad(
        self,
        pred: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        stderr: Tensor | None = None,
        settings: LossSettings | None = None,
        coefficients: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of each head and its gradient with respect to `pred`, without autograd.

        Never waits for the device, and so looks at no tensor's values: check labels once,
        when they are loaded. With ``pairs`` or ``fused`` a CUDA graph can capture it.

        Args:
            pred: [H, N] (or [..., N]) predictions in raw label units.
            target: [N] or [H, N] labels in raw units.
            mask: [N] or [H, N], true for the samples a head counts; the rest may be NaN.
            stderr: [N] or [H, N] standard errors of the labels in raw units, for ``qamro``.
            settings: the terms' settings; the defaults are the paper's.
            coefficients: [H, terms] in place of the terms' own.

        Returns:
            The loss [H], a mean over the head's own samples or pairs (0 where it has none), and
            the gradient of each head's loss [H, N]; float32 for half types, else pred's dtype.

        Raises:
            ValueError: a shape, a name or a plain number is wrong.
        """
        settings = settings or LossSettings()
        dtype = result_dtype(pred)
        rows = as_rows(pred.detach().to(dtype))
        labels = per_sample(target.detach(), pred, "target").to(pred.device)
        counted = None
        if mask is not None:
            counted = per_sample(mask, pred, "mask").to(pred.device, torch.bool)
            labels = torch.where(counted, labels, 0)
        spread = None if stderr is None else per_sample(stderr, pred, "stderr").to(pred.device)
        raw = Batch(rows, labels, counted, spread, "raw")
        value, grad = rows.new_zeros(rows.shape[0]), torch.zeros_like(rows)
        flat = _flat(settings, pred)
        for place, term in enumerate(self.terms):
            batch, scale = raw, None
            if term.units == "standardized":
                batch, scale = _standardized(raw, flat)
            term_value, term_grad = TERMS[term.name].function(batch, flat)
            if scale is not None:
                term_grad = term_grad / scale
            factor = term.coefficient if coefficients is None else coefficients[:, place]
            value = value + factor * term_value.to(dtype)
            if isinstance(factor, Tensor):
                factor = factor.unsqueeze(-1)
            grad = grad + factor * term_grad.to(dtype)
        return value.reshape(pred.shape[:-1]), grad.reshape(pred.shape)

    def __call__(
        self,
        pred: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        stderr: Tensor | None = None,
        settings: LossSettings | None = None,
    ) -> Tensor:
        """The loss of each head as `value_and_grad` has it, differentiable by autograd."""
        loss: Tensor = DirectGradient.apply(  # type: ignore[no-untyped-call]
            pred,
            lambda detached: self.value_and_grad(
                detached, target, mask=mask, stderr=stderr, settings=settings
            ),
        )
        return loss


def _flat(settings: LossSettings, pred: Tensor) -> LossSettings:
    """The settings with per-head tensors of the flattened leading shape."""

    def flat(value: Scalar, name: str) -> Scalar:
        return per_row(value, pred, name).reshape(-1) if isinstance(value, Tensor) else value

    label_range = settings.label_range
    if label_range is not None:
        low, high = label_range
        label_range = (flat(low, "label_range[0]"), flat(high, "label_range[1]"))
    return replace(
        settings,
        alpha=flat(settings.alpha, "alpha"),
        beta=flat(settings.beta, "beta"),
        label_range=label_range,
        huber_delta=flat(settings.huber_delta, "huber_delta"),
        label_mean=flat(settings.label_mean, "label_mean"),
        label_std=flat(settings.label_std, "label_std"),
    )


def _standardized(raw: Batch, settings: LossSettings) -> tuple[Batch, Tensor]:
    """The batch in standardized units, and the scale [1 | H, 1] that the units were divided by."""
    mean = per_row(settings.label_mean, raw.pred, "label_mean").to(raw.pred.dtype)
    scale = per_row(settings.label_std, raw.pred, "label_std").to(raw.pred.dtype)
    batch = Batch(
        (raw.pred - mean) / scale,
        (raw.target - mean) / scale,
        raw.mask,
        None if raw.stderr is None else raw.stderr / scale,
        "standardized",
    )
    return batch, scale


def parse_loss(text: str) -> ComposedLoss:
    """A loss from its name: terms ``[number*]name[@units]`` joined by ``+``.

    >>> str(parse_loss("0.5*huber+qamro"))
    '0.5*huber@raw+qamro@raw'

    Raises:
        ValueError: an unknown name or unit, or a coefficient that is no positive number.
    """
    return ComposedLoss(tuple(_parse_term(part.strip(), text) for part in text.split("+")))


def _parse_term(part: str, text: str) -> Term:
    name, _, units = part.partition("@")
    coefficient = 1.0
    if "*" in name:
        number, _, name = name.partition("*")
        try:
            coefficient = float(number)
        except ValueError:
            raise ValueError(f"loss is {text!r}: {number!r} is not a number") from None
    return Term(name.strip(), coefficient, units.strip() or "raw")
