"""Our features against the authors' own packages, on fixed sounds and the user's own weights.

Our networks are written anew, so nothing here needs those packages; where they are installed,
they are the judge. They run on the CPU in float32, through their own interface.
"""

import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.encoders.protocol import Encoder, EncoderOptions
from qamro_cache.encoders.support import install_line
from qamro_cache.encoders.upstream_packages import PROMPTS, UPSTREAMS, Features
from qamro_cache.errors import kind_and_words_of

#: Largest error, as a share of the median distance between two sounds.
LIMITS = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 1e-1}
#: Largest difference of a sample that enters the network: a third of a 16-bit step.
SAME_SAMPLE = 1e-5
#: Length in windows (of at most 10 s: rounding grows with the length in a recurrent network) and
#: rate of each sound; 0: the encoder's own rate.
SOUNDS = ((1.0, 0), (0.31, 44_100), (0.62, 16_000))


def compare(
    encoder: Encoder, options: EncoderOptions, device: str
) -> tuple[bool | None, str] | None:
    """Hold an encoder against its authors' package.

    Returns:
        Whether they agree (None: not compared) and a line that says so; None for an encoder
        that has no such package.
    """
    upstream = UPSTREAMS.get(encoder.spec.name)
    if upstream is None:
        return None
    if find_spec(upstream.module) is None:
        how = install_line("upstream")
        return None, f"not compared: {upstream.package} is not installed; {how}"
    name = f"{upstream.package} {version(upstream.package)}"
    if options.rate_policy != "resample" or not options.int16:
        return None, f"not compared: {name} has no --rate-policy as-is and no --no-int16"
    with tempfile.TemporaryDirectory(prefix="qamro-check-") as folder:
        files = write_sounds(Path(folder), encoder)
        try:
            with quiet(), torch.inference_mode():
                theirs = upstream.features(files, encoder, options)
        except Exception as error:  # a package of others, among whatever versions it meets
            return None, f"not compared: {name} does not run here ({kind_and_words_of(error)})"
        agrees, line = judge(ours(files, encoder, device), theirs, LIMITS[encoder.spec.precision])
    return agrees, f"{'agrees' if agrees else 'DISAGREES'} with {name}: {line}"


def judge(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], limit: float
) -> tuple[bool, str]:
    """Return whether features agree, and their errors in words.

    Args:
        ours: features [C, ...] by name, and ``waveform`` [C, window].
        theirs: likewise.
        limit: largest error, as a share of the median distance between two rows.
    """
    samples = float((ours["waveform"] - theirs["waveform"]).abs().max())
    errors = {
        name: relative_error(ours[name], rows) for name, rows in theirs.items() if name in ours
    }
    del errors["waveform"]
    shown = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    return samples <= SAME_SAMPLE and max(errors.values()) <= limit, (
        f"error {shown} of the distance between two sounds (limit {limit:.0e}), of the network's "
        f"input {samples:.0e} (limit {SAME_SAMPLE:.0e})"
    )


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest error of a row, as a share of the median distance between two rows.

    Args:
        ours: [C, D], or [C, layers, D], of which every layer is measured by itself; or the first
            rows only.
        theirs: the same shape.
    """
    worst = 0.0
    layers = (x.double().reshape(len(x), -1, x.shape[-1]).unbind(1) for x in (ours, theirs))
    for a, b in zip(*layers, strict=True):
        error = (a - b[: len(a)]).norm(dim=1).max() / torch.pdist(b).median()
        worst = max(worst, float(error.nan_to_num(torch.inf)))
    return worst


def write_sounds(folder: Path, encoder: Encoder) -> list[Path]:
    """Write a WAV file a sound: a tone, noise, a rising tone; at several rates.

    All hold some noise: bands of nothing but rounding errors weigh much in a compressed spectrum.
    """
    import soundfile

    policy = encoder.spec.audio
    longest = min(policy.window, 10 * policy.sample_rate)
    draw = np.random.default_rng(0)
    files = []
    for index, (share, rate) in enumerate(SOUNDS):
        rate = rate or policy.sample_rate
        time = np.arange(int(share * longest * rate / policy.sample_rate)) / rate
        noise = draw.standard_normal(len(time))
        sounds = (
            0.5 * np.sin(2 * np.pi * 440 * time),
            0.2 * noise,
            0.5 * np.sin(2 * np.pi * (200 + 300 * time) * time),
        )
        files.append(folder / f"{index}.wav")
        sound = (sounds[index] + 0.01 * noise).astype(np.float32)
        soundfile.write(files[-1], sound, rate, subtype="FLOAT")
    return files


def ours(files: Sequence[Path], encoder: Encoder, device: str) -> Features:
    """Return our features of the files, each a window, and what enters our network."""
    windows = [
        window for file in files for window in ClipDecoder(file, encoder.spec.audio).windows()
    ]
    waveform = torch.from_numpy(np.stack([window.samples for window in windows]))
    valid = torch.tensor([window.valid for window in windows])
    features = dict(encoder.encode(*(x.to(device) for x in (waveform, valid))))
    if encoder.spec.text_features:
        features |= encoder.encode_text(PROMPTS)
    return {name: rows.cpu() for name, rows in features.items()} | {"waveform": waveform}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a package prints and warns of to ourselves."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
