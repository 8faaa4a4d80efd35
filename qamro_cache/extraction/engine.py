"""What encodes units of work: one encoder in this process, or many on a Ray cluster."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from qamro_cache.audio.shared import SharedSounds
from qamro_cache.cache.content import CacheContent
from qamro_cache.devices import usable_device
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.errors import QamroError
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import Unit, available_processors, default_batch, unit_size

if TYPE_CHECKING:
    from qamro_cache.encoders.protocol import Encoder
    from qamro_cache.extraction.ray_engine import RayEngine


class LocalEngine:
    """One encoder, in this process.

    Attributes:
        batch_size: most windows a batch.
        unit: clips a unit.
        spec: of the encoder.
        provenance: what of the engine is recorded in the cache.

    Args:
        encoder: in eval mode on ``device``.
        device: of the encoder.
        request: its batch size, decoding threads and stored type count here.
        paths: of all clips.
        sounds: of the clips, where other encoders read the same.
    """

    def __init__(
        self,
        encoder: "Encoder",
        device: str,
        request: ExtractRequest,
        paths: Sequence[str],
        sounds: SharedSounds | None = None,
    ) -> None:
        from qamro_cache.extraction.pipeline import Pipeline

        self.batch_size = request.batch_size or default_batch(device)
        self.unit = unit_size(self.batch_size, device) if sounds is None else self.batch_size
        self.workers = request.workers or available_processors()
        self.spec = encoder.spec
        self._pipeline = Pipeline(
            encoder, device, self.batch_size, self.workers, request.dtype, paths, sounds
        )
        self.provenance: dict[str, Any] = {
            "device": device,
            "batch_size": self.batch_size,
            "workers": self.workers,
        }

    def run(self, units: Sequence[Unit], stats: Stats) -> Iterator[CacheContent]:
        """Yield the content of each unit, in order."""
        stats.workers = self.workers
        yield from self._pipeline.run(units, stats)

    def close(self) -> None:
        """Do nothing: the encoder is the caller's."""


#: What encodes units, in any order.
Engine: TypeAlias = "LocalEngine | RayEngine"


def make_engine(encoder: "Encoder | str", request: ExtractRequest, paths: Sequence[str]) -> Engine:
    """Make the engine that a request asks for.

    Args:
        encoder: loaded, in eval mode on the request's device; or its name.
        request: how to encode.
        paths: of all clips.

    Raises:
        QamroError: options that are none of a loaded encoder, a device that is not there, and
            whatever loading the encoder or reaching the cluster can raise.
    """
    from qamro_cache.encoders.registry import load_encoder

    options = request.encoder_options
    if not isinstance(encoder, str):
        if request.ray or options != EncoderOptions():
            raise QamroError(
                "ray and an encoder's options (checkpoint, precision, ...) need the encoder's "
                "name, not an encoder that is loaded already"
            )
        return LocalEngine(encoder, request.device or "cpu", request, paths)
    if request.ray:
        from qamro_cache.extraction.ray_engine import RayEngine

        return RayEngine(partial(load_encoder, encoder, options), request, paths)
    device = usable_device(request.device)
    return LocalEngine(load_encoder(encoder, options, device), device, request, paths)
