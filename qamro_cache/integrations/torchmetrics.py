"""`QamroScore`: a head as a torchmetrics metric, for loops that log one."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qamro_cache.audio.waveform import CHANNELS
from qamro_cache.encoders.support import install_line
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.heads.averaged import scale_of
from qamro_cache.paths import PathLike
from qamro_cache.scoring.scorer import Scorer

try:
    from torchmetrics import Metric
except ImportError as error:
    raise QamroError(
        f"package torchmetrics is not installed; {install_line('torchmetrics')}"
    ) from error

logger = logging.getLogger("qamro_cache")


class QamroScore(Metric):
    """The mean score of generated clips on one axis, in its units.

    Its state is a sum and a count, so that it is the same over batches, and over processes, however
    the clips are parted; but a head with context hears a clip beside its group's others in one
    `update`. Clips that cannot be scored are left out with a notice.

    Args:
        head: a scorer, or the file of a head.
        sample_rate: of the clips, in Hz.
        axis: may be left out where the head has but one.
        more: as for any metric of torchmetrics.

    Raises:
        OptionError: there is no such axis.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(
        self,
        head: Scorer | PathLike,
        sample_rate: int | None = None,
        axis: str = "",
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.scorer = head if isinstance(head, Scorer) else Scorer.from_file(head)
        self.sample_rate = sample_rate
        self.column = self.scorer.axis_index(axis)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        # A MetricCollection takes metrics whose states are equal after a first batch, such as 0 of
        # 0 clips, for one metric ever after. NaN is equal to nothing.
        self.add_state("own", torch.tensor(torch.nan), dist_reduce_fx="sum")

    def update(self, preds: Any, **about: Any) -> None:
        """Add clips.

        Args:
            preds: [clips, frames], as other metrics of sound have it, or [clips, channels,
                frames]; [frames] of one clip; or a list of whatever `Scorer.score` takes.
            about: ``prompts``, ``groups`` and ``references``, as for `Scorer.score`.
        """
        clips: Sequence[Any] = preds
        if isinstance(preds, Tensor | np.ndarray) and preds.dtype != object:
            if preds.ndim > 3:
                raise OptionError(
                    f"clips are [clips, frames] or [clips, channels, frames], got "
                    f"{list(preds.shape)}"
                )
            if preds.ndim == 2 and preds.shape[1] <= CHANNELS < preds.shape[0]:
                raise OptionError(
                    f"{list(preds.shape)} would be {preds.shape[0]} clips of {preds.shape[1]} "
                    "samples; give one clip of several channels in a list: [clip]"
                )
            clips = [preds] if preds.ndim == 1 else list(preds)
        with torch.no_grad():
            scores = self.scorer.tensor(clips, self.sample_rate, **about)[:, self.column]
        good = scores.isfinite()
        if not bool(good.all()):
            failed = int((~good).sum())
            logger.warning("%d of %d clips cannot be scored, and are left out", failed, len(scores))
        self.total += scores[good].double().sum().to(self.total.device)
        self.count += good.sum().to(self.count.device)

    def compute(self) -> Tensor:
        """Return the mean of all clips so far; NaN of none."""
        return self.total / self.count

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the value, or several of them, between the ends of the axis' scale.

        Args:
            val: what `compute` or a call has returned, or a list of these; None: `compute`.
            ax: of matplotlib; None: a new figure.

        Returns:
            The figure and its axes.
        """
        return self._plot(val, ax)

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """The low end of the axis' scale; None of a head that learned from pairs alone."""
        scale = scale_of(self.scorer.head, self.scorer.axes[self.column])
        return None if scale is None else float(scale.low)

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """The high end of the axis' scale; None likewise."""
        scale = scale_of(self.scorer.head, self.scorer.axes[self.column])
        return None if scale is None else float(scale.high)
