"""`Scorer`: a head with its encoders, kept in memory, for whatever sound a program has at hand."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from qamro_cache.devices import usable_device
from qamro_cache.encoders.protocol import WeightsOptions
from qamro_cache.errors import OptionError, QamroError, unknown
from qamro_cache.heads.averaged import calibrated_mean
from qamro_cache.heads.file import load_head
from qamro_cache.heads.head import AnyHead, axes_of, members_of
from qamro_cache.heads.hub import pull
from qamro_cache.paths import PathLike
from qamro_cache.scoring.clips import Clips, clips_of, is_array, several
from qamro_cache.scoring.company import hearing
from qamro_cache.scoring.live import LiveEncoders
from qamro_cache.scoring.predict import scores_table
from qamro_cache.scoring.scores import Scores, score_clips
from qamro_cache.settings import documented, from_options

#: Clips that `Scorer.stream` takes at once where nobody says how many.
BLOCK = 64


class Scorer:
    """Scores clips: files, numpy arrays, torch tensors.

    A clip is the path of a file; samples [frames], [frames, channels] or [channels, frames] (the
    shorter side is the channels) with their sample rate; or what the datasets library gives of a
    sound. Several are a list, or an array [clips, channels, frames]; an array [n, frames] outside
    of a list may be either, and is refused. What comes out is what `predict` says of the same sound
    in a file. Calls from several threads wait for each other.

    Attributes:
        head: as loaded.
        device: of encoders and head.
        axes: names of what is scored.
    """

    def __init__(
        self, head: AnyHead, device: str = "", weights: WeightsOptions | None = None
    ) -> None:
        self.head, self.device = head, usable_device(device)
        self._weights = weights or WeightsOptions()
        self._encoders = LiveEncoders(head, self._weights, self.device)
        self._lock = threading.Lock()
        self.axes = tuple(axis.name for axis in axes_of(head))

    @classmethod
    @documented(WeightsOptions)
    def from_file(cls, path: PathLike, *, device: str = "", **weights: Any) -> "Scorer":
        """Load a head file of qamro-train (or the folder of a run), and its encoders.

        Args:
            path: of the file.
            device: torch device; empty: a GPU if there is one.
            weights: where the encoders' weights are, by the names that qamro-predict has.

        Raises:
            QamroError: the file is damaged or no head, or an encoder is not as it was in training.
        """
        return cls(load_head(path), device, from_options(WeightsOptions, weights))

    @classmethod
    @documented(WeightsOptions)
    def from_pretrained(
        cls, name: str, *, revision: str = "main", device: str = "", **weights: Any
    ) -> "Scorer":
        """Load a head by its name on the Hugging Face hub, ``owner/name``.

        Args:
            name: there; or a file or folder that is here.
            revision: a branch, a tag or a commit there.
            device: as for `from_file`.
            weights: likewise.
        """
        if isinstance(name, str | os.PathLike) and Path(name).exists():
            return cls.from_file(name, device=device, **weights)
        return cls.from_file(pull(name, revision), device=device, **weights)

    def score(
        self,
        clips: Any,
        sample_rate: int | None = None,
        prompts: str | Sequence[str] | None = None,
        groups: Sequence[Any] | None = None,
        references: Sequence[Any] | None = None,
    ) -> pd.DataFrame:
        """Return a row an axis and clip, as `predict` does.

        Args:
            clips: one or several; of several the order is kept.
            sample_rate: in Hz, of those in memory.
            prompts: what each was made from (or one for all), for a head that takes prompts.
            groups: what each is compared within, for a head that compares.
            references: the clip that each is heard beside, for a head that compares with one; a
                clip that is itself the reference has itself.

        Returns:
            The columns of `predict`: ``prediction`` in the axis' units (NaN, with a ``reason``, for
            a clip that cannot be scored), ``std`` over the head's members (NaN for one member),
            ``ood`` and others. ``clip_id`` is the path as given, or the clip's place in the list.

        Raises:
            QamroError: it is not sound, or the head needs what was not given.
        """
        return self._table(clips_of(clips, sample_rate, prompts, groups, references))

    def tensor(
        self,
        clips: Any,
        sample_rate: int | None = None,
        prompts: str | Sequence[str] | None = None,
        groups: Sequence[Any] | None = None,
        references: Sequence[Any] | None = None,
    ) -> Tensor:
        """Return the predictions [N, axes], float32 on the device; NaN as in `score`.

        Where a clip is a tensor that requires a gradient, they have one by it: all clips are then
        tensors (or arrays), and the encoder is one that keeps gradients (``distillmos``).
        """
        asked = clips_of(clips, sample_rate, prompts, groups, references)
        if torch.is_grad_enabled() and asked.wants_gradient:
            scores = self._scores(asked, gradient=True)
        else:
            with torch.no_grad():
                scores = self._scores(asked)
        parts = zip(self.axes, scores.members, scores.shares, strict=True)
        mean = torch.stack([calibrated_mean(self.head, *part) for part in parts], 1)
        return mean[: len(mean) - len(asked.beside)].float()

    def stream(
        self,
        clips: Iterable[Any],
        sample_rate: int | None = None,
        prompts: str | Iterable[str] | None = None,
        *,
        block: int = BLOCK,
    ) -> Iterator[pd.DataFrame]:
        """Score clips as they come, and yield a table of `score` for each block of them.

        Args:
            clips: any number, of which a block is in memory at a time.
            sample_rate: as for `score`.
            prompts: one for each clip, or one for all.
            block: clips at once.

        Raises:
            OptionError: the head compares clips, which must then be scored together; or a block is
                no number of clips.
        """
        if type(block) is not int or block < 1:
            raise OptionError(f"block is how many clips are scored at once, got {block!r}")
        if any(one.context is not None for one in members_of(self.head)):
            raise OptionError("this head compares clips with each other; score them all at once")
        if isinstance(prompts, str):
            prompts = repeat(prompts)
        source = iter(several(clips) if is_array(clips) else clips)
        texts = None if prompts is None else iter(prompts)
        done = 0
        while some := list(islice(source, block)):
            said = None if texts is None else list(islice(texts, len(some)))
            yield self._table(clips_of(some, sample_rate, said, first=done))
            done += len(some)

    def rank(self, clips: Any, *more: Any, axis: str = "", **named: Any) -> npt.NDArray[np.int64]:
        """Return the places of clips from the best to the worst; equal ones in their order.

        Clips that cannot be scored come last.

        Args:
            clips: several.
            more: as for `score`.
            axis: by which; may be left out where the head has but one.
            named: as for `score`.
        """
        values = self._column(clips, *more, axis=axis, **named)
        return np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")

    def best_of(self, clips: Sequence[Any], *more: Any, axis: str = "", **named: Any) -> Any:
        """Return the best of several clips, as it was given; arguments as for `rank`.

        Raises:
            QamroError: none can be scored.
        """
        clips = several(clips)
        values = self._column(clips, *more, axis=axis, **named)
        if np.isnan(values).all():
            raise QamroError(f"none of {len(clips)} clips can be scored; Scorer.score says why")
        return clips[int(np.nanargmax(values))]

    @property
    def takes_prompts(self) -> bool:
        """Whether the head sees what clips were made from."""
        return any(one.text_feature for one in members_of(self.head))

    @property
    def compares(self) -> set[str]:
        """What the head hears clips beside: ``group``, ``reference`` or both; nothing."""
        kinds = {one.context.kind for one in members_of(self.head) if one.context is not None}
        return {"group", "reference"} if "both" in kinds else kinds

    def axis_index(self, axis: str = "") -> int:
        """Return the column of an axis; of a head with one axis without a name.

        Raises:
            OptionError: there is no such axis, or several and none is named.
        """
        if not axis and len(self.axes) == 1:
            return 0
        if axis not in self.axes:
            raise unknown("this head has no axis", axis, self.axes)
        return self.axes.index(axis)

    def _column(self, clips: Any, *more: Any, axis: str, **named: Any) -> npt.NDArray[np.float64]:
        column = self.axis_index(axis)
        with torch.no_grad():
            return self.tensor(clips, *more, **named)[:, column].double().cpu().numpy()

    def _table(self, asked: Clips) -> pd.DataFrame:
        with torch.no_grad():
            return scores_table(self.head, self._scores(asked), asked.beside)

    def _scores(self, asked: Clips, *, gradient: bool = False) -> Scores:
        """Encode and score what is asked, the company last."""
        table = asked.table
        scored = ~table["clip_id"].isin(asked.beside).to_numpy()
        heads = members_of(self.head)
        if any(one.text_feature for one in heads) and not (table["prompt"] != "").any():
            raise OptionError("this head takes the prompt too; give prompts, one for each clip")
        # Before anything is encoded: without groups there is nothing to compare.
        for one in heads:
            hearing(one, table.assign(status="ok"), scored, "the clips")
        # An encoder may keep what one call gives it until that is done.
        with self._lock:
            if gradient:
                sources = self._encoders.sources_with_gradient(table, *asked.tensors())
            else:
                sources = self._encoders.sources(table, asked.held())
        return score_clips(self.head, sources, self.device, asked.beside)

    def __deepcopy__(self, memo: Any) -> "Scorer":
        """A scorer never changes: copies of what has one share it, and its encoders."""
        return self

    def __reduce__(self) -> Any:
        """Another process loads the encoders itself."""
        return Scorer, (self.head, self.device, self._weights)
