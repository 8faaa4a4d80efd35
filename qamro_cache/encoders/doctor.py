"""A short self-test of an encoder: whether all is here, and does what an encoder must."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qamro_cache.encoders.protocol import Encoder, EncoderOptions
from qamro_cache.encoders.registry import find_encoder, load_found
from qamro_cache.encoders.upstream import compare
from qamro_cache.errors import QamroError, words_of

#: Largest difference between two batches that rounding explains, as a share of the feature's size.
TOLERANCE = {"float32": 1e-5, "tf32": 1e-3, "bfloat16": 2e-2, "float16": 2e-3}
BATCH = 4
PROMPTS = ("a slow piano piece", "loud and fast drums")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's findings.

    Attributes:
        name: what was looked at, for example ``weights``.
        ok: whether it is as it must be; None: that could not be found out here.
        detail: one line: what was found, or what is missing and how to get it.
    """

    name: str
    ok: bool | None
    detail: str


def check_encoder(
    name: str, options: EncoderOptions | None = None, device: str = "cpu"
) -> Iterator[Check]:
    """Yield findings as they come; the first that is not ok may be the last.

    Nothing is downloaded, and no failure is raised: it becomes a line.
    """
    options = EncoderOptions() if options is None else options
    try:
        info, argument = find_encoder(name)
    except QamroError as error:
        yield Check("name", False, str(error))
        return
    missing = list(info.missing(argument, options))
    for line in missing:
        yield Check("missing", False, line)
    if missing:
        return
    start = time.perf_counter()
    try:
        encoder = load_found(info, argument, options, device)
    except QamroError as error:
        yield Check("weights", False, str(error))
        return
    spec, seconds = encoder.spec, time.perf_counter() - start
    weights = f"sha256 {spec.checkpoint_sha256}" if spec.checkpoint_sha256 else "none needed"
    yield Check("weights", True, f"{weights}; loaded in {seconds:.1f} s")
    if spec.tokenizer_sha256:
        yield Check("tokenizer", True, f"sha256 {spec.tokenizer_sha256}")
    for check in (_audio, _repeatable, _batches, _text, _speed):
        try:
            yield from check(encoder, device)
        except (QamroError, RuntimeError) as error:
            yield Check(check.__name__.lstrip("_"), False, words_of(error))
    try:
        if (compared := compare(encoder, options, device)) is not None:
            yield Check("upstream", *compared)
    # Ours failed, or the two are not of one shape.
    except (QamroError, RuntimeError) as error:
        yield Check("upstream", False, words_of(error))


def signal(encoder: Encoder, device: str) -> tuple[Tensor, Tensor]:
    """Return fixed windows [4, window], two of them padded, and their valid samples [4]."""
    window, rate = encoder.spec.audio.window, encoder.spec.audio.sample_rate
    time_axis = torch.arange(window) / rate
    generator = torch.Generator().manual_seed(0)
    rows = [
        0.5 * torch.sin(2 * torch.pi * 440 * time_axis),
        0.1 * torch.randn(window, generator=generator).clamp(-5, 5),
        0.5 * torch.sin(2 * torch.pi * (200 + 300 * time_axis) * time_axis),
        torch.sign(torch.sin(2 * torch.pi * 110 * time_axis)) * 0.3,
    ]
    windows, valid = torch.stack(rows), torch.tensor([window, window, window // 2, rate])
    windows[torch.arange(window) >= valid[:, None]] = 0
    return windows.to(device), valid.to(device)


def _audio(encoder: Encoder, device: str) -> Iterator[Check]:
    features = encoder.encode(*signal(encoder, device))
    for name, shape in encoder.spec.features.items():
        if name not in features or tuple(features[name].shape) != (BATCH, *shape):
            yield Check("features", False, f"{name} is not {[BATCH, *shape]}")
        elif not torch.isfinite(features[name]).all():
            yield Check("features", False, f"{name} holds NaN or infinite values")
        elif torch.equal(features[name][0], features[name][1]):
            yield Check("features", False, f"{name} is the same for a tone and for noise")
        else:
            shown = " x ".join(map(str, shape))
            yield Check("features", True, f"{name}: {shown}, finite, a tone and noise differ")


def _repeatable(encoder: Encoder, device: str) -> Iterator[Check]:
    windows, valid = signal(encoder, device)
    first, again = encoder.encode(windows, valid), encoder.encode(windows, valid)
    yield _compare(encoder, "repeatable", first, again, "twice the same windows")


def _batches(encoder: Encoder, device: str) -> Iterator[Check]:
    windows, valid = signal(encoder, device)
    together = encoder.encode(windows, valid)
    alone = [encoder.encode(windows[i : i + 1], valid[i : i + 1]) for i in range(BATCH)]
    joined = {name: torch.cat([one[name] for one in alone]) for name in together}
    yield _compare(encoder, "batches", together, joined, f"batches of 1 and {BATCH}")


def _compare(
    encoder: Encoder, name: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], what: str
) -> Check:
    limit = TOLERANCE[encoder.spec.precision]
    worst = max(
        float((a[key].float() - b[key].float()).abs().max() / a[key].float().abs().max())
        for key in encoder.spec.features
    )
    return Check(
        name, worst <= limit, f"{what}: largest difference {worst:.1e} (limit {limit:.0e})"
    )


def _text(encoder: Encoder, device: str) -> Iterator[Check]:
    if not encoder.spec.text_features:
        return
    for name, value in encoder.encode_text(PROMPTS).items():
        distance = float((value[0] - value[1]).norm())
        ok = bool(torch.isfinite(value).all()) and distance > 1e-6
        yield Check("prompts", ok, f"{name}: two prompts differ by {distance:.2g}")


def _speed(encoder: Encoder, device: str) -> Iterator[Check]:
    windows, valid = signal(encoder, device)
    count, wait = 0, _synchronize(device)
    start = time.perf_counter()
    while time.perf_counter() - start < 1:
        encoder.encode(windows, valid)
        wait()
        count += BATCH
    rate = count / (time.perf_counter() - start)
    seconds = encoder.spec.audio.window / encoder.spec.audio.sample_rate
    yield Check("speed", True, f"{rate:.1f} windows of {seconds:g} s a second, batches of {BATCH}")


def _synchronize(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
