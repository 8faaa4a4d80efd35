"""Distill-MOS: a small speech-quality model whose weights come inside its PyPI package.

Stahl and Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based
Speech Quality Assessment" (2025). Needs no download, so it is the demo's encoder.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from qamro_cache.encoders.precision import computing_in
from qamro_cache.encoders.protocol import Encoder, EncoderInfo, EncoderOptions
from qamro_cache.encoders.support import file_sha256, missing_packages
from qamro_cache.errors import QamroError
from qamro_cache.identity import AudioPolicy, EncoderSpec

SAMPLE_RATE = 16_000
WINDOW = 122_880  # 7.68 s, the model's fixed input


class DistillMosEncoder(Encoder):
    """The 200-d vector before the last linear layer, and the model's own score (1 to 5).

    The resampler is that of upstream's own file reader; soxr's steeper filter moves the scores.
    A short clip is filled with zeros at its end, as upstream does. Upstream cuts a longer one
    every second or closer; we cut one window after another, and a tail is moved back to a full
    window. The model scales every window by its peak.
    """

    differentiable = True

    def __init__(self, options: EncoderOptions, device: str) -> None:
        import distillmos
        from distillmos.sqa import DEFAULT_WEIGHTS_CHKPT

        weights = Path(DEFAULT_WEIGHTS_CHKPT)
        if not weights.is_file():
            raise QamroError(f"{weights} is missing; run: pip install --force-reinstall distillmos")
        # The package's own loading prints; this one does not, and is as strict.
        self.model = distillmos.ConvTransformerSQAModel(
            load_weights=False, segmenting_in_forward=False
        )
        self.model.load_state_dict(torch.load(weights, "cpu", weights_only=True)["model"])
        self.model.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.spec = EncoderSpec(
            name="distillmos",
            version="1",
            audio=AudioPolicy(
                SAMPLE_RATE,
                WINDOW,
                WINDOW,
                min_tail=SAMPLE_RATE,
                min_clip=SAMPLE_RATE // 10,
                resampler="torchaudio-sinc-hann-6",
                rate_policy=options.rate_policy,
            ),
            features={"embedding": (200,), "mos": (1,)},
            checkpoint_sha256=file_sha256(weights),
            precision=options.precision,
        )

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Return ``embedding`` [B, 200] and ``mos`` [B, 1]."""
        taken: list[Tensor] = []
        last = self.model.transformer_pool_attn.pool.linear3
        hook = last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
        try:
            silence = _Silence() if windows.requires_grad else nullcontext()
            with computing_in(self.spec.precision, self.device), silence:
                mos = self.model(windows)
        finally:
            hook.remove()
        return {"embedding": taken[0], "mos": mos.reshape(len(windows), 1)}


class _Silence(TorchFunctionMode):
    """Gives a spectrum's bins of exact silence, such as padding, the gradient 0.

    The model takes the 0.3rd power of a bin's size, whose derivative at 0 is not a number.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if func is torch.stft and out.requires_grad:
            out.register_hook(lambda grad: torch.where(grad.isfinite(), grad, 0))
        return out


INFO = EncoderInfo(
    name="distillmos",
    summary="Distill-MOS speech quality; weights inside its package, works offline",
    source="PyPI distillmos 0.9.1 (microsoft/Distill-MOS)",
    license="MIT",
    dims="embedding 200, mos 1",
    missing=lambda argument, options: missing_packages(["distillmos", "xls_r_sqa"], "distillmos"),
    load=lambda argument, options, device: DistillMosEncoder(options, device),
    takes=("precision", "rate_policy"),
)
