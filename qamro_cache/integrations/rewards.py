"""A head as the reward of reinforcement learning: functions that TRL and verl call.

A policy that is rewarded by a predictor learns what the predictor gets wrong. The reward is
therefore ``mean - k * std`` over the head's members: where they disagree, there is less to win,
but never less than for what cannot be scored.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.errors import OptionError, quoted
from qamro_cache.heads.averaged import scale_of
from qamro_cache.heads.head import members_on
from qamro_cache.paths import PathLike
from qamro_cache.scoring.scorer import Scorer

logger = logging.getLogger("qamro_cache")

#: Reward of what cannot be scored by a head of pairs alone, in its standard units.
WORST = -10.0


class _Rewards:
    """What both functions share: a scorer, an axis of it, and what a clip's table comes to."""

    def __init__(
        self, head: Scorer | PathLike, axis: str, k: float, sample_rate: int | None
    ) -> None:
        self.scorer = head if isinstance(head, Scorer) else Scorer.from_file(head)
        self.axis = self.scorer.axes[self.scorer.axis_index(axis)]
        self.members = members_on(self.scorer.head, self.axis)
        try:
            self.k = float(k)
        except (TypeError, ValueError):
            self.k = np.nan
        self.sample_rate = sample_rate
        if not 0 <= self.k < np.inf:
            raise OptionError(f"k is a number from 0 on, got {quoted(k)}")
        if self.k and self.members < 2:
            raise OptionError(
                "this head has one member, so there is no std to take from its mean; train it with "
                "several seeds, or say k=0"
            )
        # Of what cannot be scored, and the least of what can: so silence is no way out.
        scale = scale_of(self.scorer.head, self.axis)
        self.worst = WORST if scale is None else 2 * scale.low - scale.high

    def of(self, clips: Sequence[Any], **about: Any) -> pd.DataFrame:
        """Return score (the reward), mean, ood and (of several members) std, a row a clip."""
        table = self.scorer.score(clips, self.sample_rate, **about)
        table = table[table["axis"] == self.axis]
        mean, std = (table[name].to_numpy(float) for name in ("prediction", "std"))
        failed = np.isnan(mean)
        if failed.any():
            first = table["reason"].to_numpy(str)[failed][0]
            logger.warning("%d of %d clips cannot be scored (%s)", failed.sum(), len(mean), first)
        reward = mean - self.k * np.where(self.k, std, 0.0)
        reward = np.where(failed, self.worst, np.maximum(reward, self.worst))
        found = {"score": reward, "mean": mean, "ood": table["ood"].to_numpy(float)}
        return pd.DataFrame(found | ({"std": std} if self.members > 1 else {}))

    def refuse_text(self, clip: Any) -> None:
        """Refuse to take what a language model wrote for the path of a file."""
        if isinstance(clip, str) or (isinstance(clip, list) and clip and _is_message(clip[0])):
            raise OptionError(
                "the completions are text; give decode, which makes sound (or paths) of them"
            )


def trl_reward(
    head: Scorer | PathLike,
    *,
    axis: str = "",
    k: float = 1.0,
    decode: Callable[..., Sequence[Any]] | None = None,
    sample_rate: int | None = None,
) -> Callable[..., list[float]]:
    """Return a reward function for TRL's trainers (``reward_funcs``).

    It is called by keyword with ``prompts``, ``completions`` and all columns of the data set, and
    returns a float for each completion. A head that takes prompts is given ``prompts``; one that
    compares compares the completions of one prompt, or each with the column ``reference``. What
    cannot be scored gets the scale's low end less the width of the scale (of a head that learned
    from pairs alone, `WORST`).

    Args:
        head: a scorer, or the file of a head.
        axis: whose score is the reward; may be left out where the head has but one.
        k: standard deviations over the members that are taken from their mean.
        decode: ``decode(completions, prompts=..., **columns)`` returns the clips as `Scorer.score`
            takes them; None: the completions are clips.
        sample_rate: of clips in memory, in Hz.

    Raises:
        OptionError: there is no such axis, or no std of a single member.
    """
    rewards = _Rewards(head, axis, k, sample_rate)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        if decode is None:
            for one in completions:
                rewards.refuse_text(one)
            clips = list(completions)
        else:
            clips = list(decode(completions, prompts=prompts, **columns))
        if len(clips) != len(completions):
            raise OptionError(f"decode gave {len(clips)} clips for {len(completions)} completions")
        texts = [prompt_text(one) for one in prompts]
        about: dict[str, Any] = {}
        compares = rewards.scorer.compares
        if rewards.scorer.takes_prompts or "group" in compares:
            about = {"prompts": texts, "groups": texts}
        if "reference" in compares:
            about["references"] = columns.get("reference")
        return [float(value) for value in rewards.of(clips, **about)["score"]]

    # What TRL logs it as.
    reward.__name__ = f"qamro_{rewards.axis}"
    return reward


def verl_reward(
    head: Scorer | PathLike,
    *,
    axis: str = "",
    k: float = 1.0,
    decode: Callable[[Any, Mapping[str, Any]], Any] | None = None,
    sample_rate: int | None = None,
) -> Callable[..., dict[str, float]]:
    """Return a ``compute_score`` for verl (``custom_reward_function``).

    It is called by keyword with ``data_source``, ``solution_str``, ``ground_truth``, ``extra_info``
    and whatever verl adds, for one completion at a time, in threads, and returns ``score``,
    ``mean``, ``ood`` (0 or 1) and, of several members, ``std``. ``extra_info`` may have the
    ``prompt`` for a head that takes it, and the ``reference`` for one that compares with it.

    Args:
        head: as for `trl_reward`.
        axis: likewise.
        k: likewise.
        decode: ``decode(solution_str, extra_info)`` returns the clip; None: it is one.
        sample_rate: of clips in memory, in Hz.

    Raises:
        OptionError: as `trl_reward`; and the head compares the clips of a group, of which verl
            gives one at a time.
    """
    rewards = _Rewards(head, axis, k, sample_rate)
    if "group" in rewards.scorer.compares:
        raise OptionError(
            "this head compares the clips of a group, and verl gives one at a time; use a head "
            "without context"
        )

    def compute_score(
        data_source: Any,
        solution_str: Any,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, float]:
        extra = extra_info or {}
        if decode is None:
            rewards.refuse_text(solution_str)
        clip = solution_str if decode is None else decode(solution_str, extra)
        about: dict[str, Any] = {}
        if rewards.scorer.takes_prompts:
            about["prompts"] = [prompt_text(extra.get("prompt"))]
        if "reference" in rewards.scorer.compares:
            about["references"] = [extra.get("reference")]
        found = rewards.of([clip], **about).iloc[0]
        return {str(name): float(value) for name, value in found.items()}

    return compute_score


def prompt_text(prompt: Any) -> str:
    """Return the words of a prompt: a text, or a conversation's last message by the user."""
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    messages = [one for one in prompt if _is_message(one)]
    asked = [one for one in messages if one.get("role") == "user"] or messages
    content = asked[-1].get("content", "") if asked else ""
    if isinstance(content, str):
        return content
    return " ".join(str(part["text"]) for part in content if "text" in part)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "content" in value
