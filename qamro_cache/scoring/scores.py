"""What a head says of clips: its members' scores, differentiable where the features are."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.features.pooling import mean_rows, take_clips
from qamro_cache.features.sources import Sources
from qamro_cache.heads.averaged import first_words
from qamro_cache.heads.head import (
    AnyHead,
    AxisHead,
    Ensemble,
    Head,
    axes_of,
    members_of,
    shares_of,
)
from qamro_cache.heads.network import forward
from qamro_cache.scoring.company import company_words, hearing, lacks_reference
from qamro_cache.scoring.seen import head_sources, prompts, seen

#: Windows scored at once: bounds the memory for hidden layers, whatever the cache's size.
_WINDOWS = 8192

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """What a head says of N clips.

    Attributes:
        sources: the caches that it read.
        members: of each axis [M, N] float64 in its units, M its members; NaN for a clip that has
            no score.
        shares: of each axis [M] what its members have in the mean; None: equal ones.
        ood: [A, N] of each axis, whether a clip is out of distribution.
        told: [N] how many others each clip was heard beside, see `company_words`.
        reasons: [N] why a clip has no score; empty where it has one.
    """

    sources: Sources
    members: list[Tensor]
    shares: "list[Tensor | None]"
    ood: npt.NDArray[np.bool_]
    told: npt.NDArray[np.object_]
    reasons: npt.NDArray[Any]


def score_clips(
    head: AnyHead,
    joined: Sources,
    device: str = "cpu",
    beside: Collection[str] = (),
    *,
    strict: bool = False,
) -> Scores:
    """Score the clips of a cache, or of several that are joined.

    Args:
        head: loaded.
        joined: the caches.
        device: where to.
        beside: ids of clips that are but company.
        strict: refuse clips without such company as the head learned from.
    """
    parts = [_scores(one, joined, device, beside, strict=strict) for one in members_of(head)]
    if not isinstance(head, Ensemble):
        return parts[0]
    members, shares, ood = [], [], []
    for axis in axes_of(head):
        chosen = shares_of(head, axis.name)
        mine = [parts[k].members[row] for k, row, _ in chosen]
        counted = zip(mine, chosen, strict=True)
        parted = [torch.full((len(one),), share / len(one)) for one, (*_, share) in counted]
        members.append(torch.cat(mine))
        shares.append(torch.cat(parted).to(mine[0]))
        ood.append(np.logical_or.reduce([parts[k].ood[row] for k, row, _ in chosen]))
    told, reasons = (first_words([getattr(one, n) for one in parts]) for n in ("told", "reasons"))
    return Scores(parts[0].sources, members, [*shares], np.stack(ood), told, reasons)


def _scores(
    head: Head, joined: Sources, device: str, beside: Collection[str], *, strict: bool
) -> Scores:
    """Score clips by one head."""
    sources = head_sources(head, joined)
    clips = sources.clips
    text, missing = prompts(head, sources, device)
    missing[(missing == "") & lacks_reference(head, clips)] = "its reference has no features"
    scored = (clips["status"] == "ok").to_numpy() & (missing == "")
    failed = clips["reason"].to_numpy(str)
    known = np.where((missing != "") & (failed == ""), missing, failed)
    reasons = np.where(scored, "", known)
    nothing = torch.tensor(torch.nan, dtype=torch.float64, device=device)
    members = [nothing.repeat(len(one.seeds), len(clips)) for one in head.axes]
    ood = np.zeros((len(head.axes), len(clips)), bool)
    asked = scored & ~clips["clip_id"].isin(list(beside)).to_numpy()
    company = hearing(head, clips, asked, str(sources.first.paths[0]))
    told = company_words(head, company, clips, asked, strict=strict)
    for view, axes in seen(head, sources, company, device):
        windows, offsets, weights = view
        for block in _blocks(offsets.diff().cpu().numpy(), np.flatnonzero(asked)):
            rows = torch.as_tensor(block, device=offsets.device)
            taken = take_clips(offsets, rows)
            w, share = windows[taken.windows].float(), weights[taken.windows]
            prompt = None if text is None else text[rows]
            means = mean_rows(w.detach().flatten(1), taken.clip, share, len(block))
            far = head.reference.is_ood(means).cpu().numpy()
            for row in axes:
                one = head.axes[row]
                members[row][:, rows] = member_scores(head, one, w, taken.offsets, share, prompt)
                own = one.reference
                ood[row, block] = far if own is None else own.is_ood(means).cpu().numpy()
    return Scores(sources, members, [None] * len(members), ood, told, reasons)


def member_scores(
    head: Head,
    one: AxisHead,
    windows: Tensor,
    offsets: Tensor,
    weights: Tensor,
    text: Tensor | None,
) -> Tensor:
    """Return the scores [M, C] of an axis' members in its units, float64."""
    device = windows.device
    out = forward(
        head.architecture,
        {name: value.to(device) for name, value in one.params.items()},
        windows,
        offsets,
        weights,
        text=text,
        mean=None if one.row_mean is None else one.row_mean.to(device),
        std=None if one.row_std is None else one.row_std.to(device),
        bounds=one.bounds.to(device),
    )
    return one.label_mean + one.label_std * out.double()


def _blocks(counts: Ints, rows: Ints) -> list[Ints]:
    """Cut clips into blocks of about _WINDOWS windows."""
    if len(rows) == 0:
        return []
    block = np.cumsum(counts[rows]) // _WINDOWS
    return np.split(rows, np.flatnonzero(np.diff(block)) + 1)
