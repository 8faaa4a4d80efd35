"""Samples to features with a gradient: every step of an encoder's audio policy in torch."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qamro_cache.audio.resample import torchaudio_resampled, torchaudio_width
from qamro_cache.audio.windows import fill_window, plan_windows
from qamro_cache.cache.content import CacheContent, clip_table, no_labels, offsets_of
from qamro_cache.encoders.precision import with_gradient
from qamro_cache.encoders.protocol import Encoder
from qamro_cache.errors import ClipError, OptionError
from qamro_cache.extraction.units import Unit
from qamro_cache.identity import AudioPolicy


def content_with_gradient(
    encoder: Encoder,
    clips: Unit,
    waves: Sequence[Tensor],
    rate: int,
    batch: int,
    device: str,
) -> tuple[CacheContent, Mapping[str, Tensor]]:
    """Encode clips as the extraction does, and keep the gradient.

    Args:
        encoder: one that is ``differentiable``.
        clips: to be encoded; their prompts are not.
        waves: [frames, channels] of each, on any device.
        rate: of the samples, in Hz.
        batch: most windows at once.
        device: of the encoder.

    Returns:
        The clips without features, and the features by name [W, ...].

    Raises:
        OptionError: a step of the policy has no gradient.
    """
    policy = encoder.spec.audio
    resampled = _resampling(policy, rate)
    errors: list[ClipError | None] = []
    windows: list[Tensor] = []
    starts: list[tuple[int, int]] = []
    counts = []
    for wave in waves:
        try:
            cut, plan = _windows(resampled(wave.to(device).float().mean(1)), policy)
        except ClipError as error:
            errors.append(error)
            counts.append(0)
            continue
        errors.append(None)
        windows += cut
        starts += plan
        counts.append(len(plan))
    features = _encoded(encoder, windows, [size for _, size in starts], batch, device)
    table = pd.DataFrame(clips)[["clip_id", "path", "prompt"]].assign(
        status=["ok" if error is None else error.code for error in errors],
        reason=["" if error is None else error.reason for error in errors],
    )
    content = CacheContent(
        clip_table(table),
        no_labels(len(clips)),
        offsets_of(np.array(counts, np.int64)),
        np.array([size / policy.window for _, size in starts], np.float32),
        np.array([start for start, _ in starts], np.int64),
        {},
    )
    return content, features


def _encoded(
    encoder: Encoder, windows: Sequence[Tensor], sizes: Sequence[int], batch: int, device: str
) -> Mapping[str, Tensor]:
    """Return the features by name [W, ...] of W windows, of which so many samples are audio."""
    valid = torch.tensor(sizes, dtype=torch.int64, device=device)
    parts = []
    with with_gradient():
        for first in range(0, len(windows), batch):
            some = slice(first, first + batch)
            parts.append(encoder.encode(torch.stack([*windows[some]]), valid[some]))
    return {
        name: torch.cat([torch.zeros(0, *shape, device=device), *(one[name] for one in parts)])
        for name, shape in encoder.spec.features.items()
    }


def _resampling(policy: AudioPolicy, rate: int) -> "partial[Tensor]":
    """Return what changes the rate of mono samples [T] as the policy says."""
    if policy.int16:
        raise OptionError("samples that are truncated to 16 bits have no gradient")
    if rate == policy.sample_rate or policy.rate_policy == "as-is":
        return partial(torch.Tensor.contiguous)
    width = torchaudio_width(policy.resampler)
    if width is None:
        raise OptionError(
            f"the resampler {policy.resampler} has no gradient; give samples at "
            f"{policy.sample_rate} Hz"
        )
    return partial(torchaudio_resampled, rate=rate, to=policy.sample_rate, width=width)


def _windows(samples: Tensor, policy: AudioPolicy) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Cut mono samples [T] into windows, as files are; and say where each starts and ends."""
    if not bool(samples.isfinite().all()):
        raise ClipError("not-finite", "the clip holds NaN or infinite samples")
    plan = plan_windows(len(samples), policy)
    windows = []
    for start, valid in plan:
        # Padding is told by places, so that one function pads for all: 0 is silence.
        places = fill_window(np.arange(1, valid + 1, dtype=np.float32), policy)
        index = torch.from_numpy(places.astype(np.int64)).to(samples.device)
        silence = samples.new_zeros(1)
        windows.append(torch.cat([silence, samples[start : start + valid]])[index])
    return windows, plan
