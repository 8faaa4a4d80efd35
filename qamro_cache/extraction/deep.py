"""Encode some clips of a cache again, and see that the cache holds what comes out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qamro_cache.cache.checks import refuse_mixture
from qamro_cache.cache.reader import CacheLike, one_file
from qamro_cache.cache.tables import open_tables
from qamro_cache.devices import usable_device
from qamro_cache.encoders.registry import load_encoder, options_of
from qamro_cache.errors import QamroError
from qamro_cache.extraction.pipeline import Pipeline
from qamro_cache.extraction.request import VerifyOptions
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import jobs_of
from qamro_cache.identity import identity_of
from qamro_cache.settings import documented, from_options

if TYPE_CHECKING:
    from qamro_cache.encoders.protocol import Encoder

#: Largest difference that another device, batch or library version may make, relative to the
#: feature's largest value: in float32, and where half precision comes in.
TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-2


@documented(VerifyOptions)
def verify_deep(cache: CacheLike, **options: Any) -> dict[str, float]:
    """Encode a random sample of a cache's clips again, with the encoder it names, and compare.

    Args:
        cache: of one file, or open.
        options: those of ``qamro-cache verify`` by their names.

    Returns:
        As `encode_again`.

    Raises:
        QamroError: an option that cannot be, an encoder that cannot be loaded here; and as
            `encode_again`.
    """
    path, asked = one_file(cache), from_options(VerifyOptions, options)
    device = usable_device(asked.device)
    identity = open_tables(path).header.identity
    encoder = load_encoder(str(identity["name"]), options_of(identity, asked), device)
    return encode_again(path, encoder, device=device, sample=asked.sample, seed=asked.seed)


def encode_again(
    cache: CacheLike, encoder: "Encoder", *, device: str = "cpu", sample: int = 16, seed: int = 0
) -> dict[str, float]:
    """Encode a random sample of a cache's clips with a loaded encoder and compare.

    Args:
        cache: as for `verify_deep`.
        encoder: of the cache's identity.
        device: of the encoder.
        sample: clips to encode; all of them if there are fewer.
        seed: of the choice.

    Returns:
        ``clips`` compared, ``largest_difference`` relative to the feature's largest value.

    Raises:
        QamroError: another identity; an audio file that is gone or has other bytes than the
            cache was made of; windows or features that differ.
    """
    path = one_file(cache)
    source = open_tables(path)
    clips, identity = source.clips, source.header.identity
    refuse_mixture(
        Path("the encoder"), identity_of(encoder.spec, identity["stored_dtype"]), path, identity
    )
    ok = np.flatnonzero((clips["status"] == "ok").to_numpy())
    rows = np.sort(np.random.default_rng(seed).permutation(ok)[:sample])
    if not len(rows):
        return {"clips": 0, "largest_difference": 0.0}
    chosen = clips.iloc[rows]
    paths = chosen["path"].tolist()
    pipeline = Pipeline(encoder, device, 32, 2, identity["stored_dtype"], paths)
    (found,) = pipeline.run([jobs_of(chosen)], Stats())
    exact = identity["precision"] == identity["stored_dtype"] == "float32"
    allowed = TOLERANCE if exact else HALF_TOLERANCE
    largest = 0.0
    for place, row in enumerate(rows):
        clip, again = clips.iloc[row], found.clips.iloc[place]
        name = f"{path}: clip {clip['clip_id']!r}"
        if again["status"] != "ok":
            raise QamroError(f"{name} cannot be encoded again: {again['reason']}")
        if again["audio_sha256"] != clip["audio_sha256"]:
            raise QamroError(f"{name}: {clip['path']} is not the audio that the cache was made of")
        old = slice(*source.offsets[row : row + 2])
        new = slice(*found.offsets[place : place + 2])
        if not np.array_equal(source.starts[old], found.starts[new]):
            raise QamroError(f"{name} is cut into other windows now")
        for feature, values in found.features.items():
            stored = source.container.rows(f"features/{feature}", old.start, old.stop)
            most = max(float(np.abs(values[new]).max()), 1e-12)
            difference = float(np.abs(stored.astype(float) - values[new]).max()) / most
            largest = max(largest, difference)
            if not difference <= allowed:
                raise QamroError(
                    f"{name}: feature {feature} differs by {difference:.1e} of its largest value "
                    f"(allowed {allowed:.0e}): the cache does not hold what this encoder makes"
                )
    return {"clips": len(rows), "largest_difference": largest}
