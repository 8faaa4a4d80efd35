"""Run an encoder over batches: smaller ones when memory runs out, compiled when told to."""

import logging
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from qamro_cache.encoders.protocol import Encoder
from qamro_cache.errors import QamroError, words_of
from qamro_cache.self_check import switched_off

#: Largest distance of a window's features from those without compiling, relative to their size.
#: In half precision both are rounded, each in its own order.
AGREES = 5e-2

logger = logging.getLogger("qamro_cache")


class Runner:
    """Encodes batches of any size; keeps what it learned about memory.

    Attributes:
        compilable: whether it is on a GPU, has ``networks()``, the modules that do the work, and
            kernels are not switched off.

    Args:
        encoder: in eval mode.
        device: of the encoder.
    """

    def __init__(self, encoder: Encoder, device: str | torch.device) -> None:
        self.encoder, self.device = encoder, torch.device(device)
        self.limit = 0  # most windows at once; 0 until memory has run out
        self.batch = 0  # windows of a compiled batch
        self.compared = False  # with what is computed without compiling
        networks: Callable[[], list[nn.Module]] | None = getattr(encoder, "networks", None)
        self.networks = networks() if networks else []
        self.compilable = self.device.type == "cuda" and bool(self.networks) and not switched_off()

    def compile(self, size: int) -> None:
        """Compile the networks for batches of ``size`` windows; the next one then takes a minute.

        PyTorch keeps the compiled code on the disk (TORCHINDUCTOR_CACHE_DIR), so that the next
        run takes seconds.
        """
        for network in self.networks:
            network.compile(dynamic=False)
            self.batch = min(size, self.limit or size)

    def encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        """Encode [B, window], B > 0, as ``Encoder.encode`` does, in parts where B is too much.

        Raises:
            QamroError: not even one window fits into memory.
        """
        parts: list[Mapping[str, Tensor]] = []
        start = 0
        while start < len(windows):
            part = slice(start, start + (self.batch or self.limit or len(windows)))
            try:
                parts.append(self._encode(windows[part], valid[part]))
                start = part.stop
                continue
            except torch.OutOfMemoryError:
                pass  # what the attempt held is free only outside of this clause
            self._halve(self.batch or len(windows[part]))
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _halve(self, size: int) -> None:
        if size == 1:
            raise QamroError(
                f"one window of encoder {self.encoder.spec.name} does not fit into the memory of "
                f"{self.device}; free some, or use --precision float16 or --device cpu"
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.limit = size // 2
        self.batch = min(self.batch, self.limit)
        logger.warning("memory ran out; going on with batches of %d windows", self.limit)

    def _encode(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        if not self.batch:
            return self.encoder.encode(windows, valid)
        # One compiled size serves all: a smaller batch is filled up with its own rows.
        rows = torch.arange(self.batch, device=windows.device) % len(windows)
        before = time.monotonic()
        try:
            features = self.encoder.encode(windows[rows], valid[rows])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in many ways
            return self._without(f"cannot be compiled here ({words_of(error)})", windows, valid)
        features = {name: value[: len(windows)] for name, value in features.items()}
        if not self.compared:
            if not self._agrees(features, windows, valid):
                return self._without("computes something else when compiled", windows, valid)
            self.compared = True
            logger.info("compiled and compared in %.0f s", time.monotonic() - before)
        return features

    def _agrees(self, features: Mapping[str, Tensor], windows: Tensor, valid: Tensor) -> bool:
        """Tell whether a compiled batch is what the networks compute without compiling."""
        compiled = [network._compiled_call_impl for network in self.networks]
        try:
            plain = self._plainly(windows, valid)
        finally:
            for network, call in zip(self.networks, compiled, strict=True):
                network._compiled_call_impl = call
        return all(_distance(features[name], value) <= AGREES for name, value in plain.items())

    def _without(self, why: str, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        logger.warning("encoder %s %s; going on without", self.encoder.spec.name, why)
        self.batch = 0
        return self._plainly(windows, valid)

    def _plainly(self, windows: Tensor, valid: Tensor) -> Mapping[str, Tensor]:
        for network in self.networks:
            network._compiled_call_impl = None
        return self.encoder.encode(windows, valid)


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest distance of a row from what it should be, in the norm of a usual row."""
    ours, theirs = (x.double().reshape(len(x), -1) for x in (ours, theirs))
    sizes = theirs.norm(dim=1)
    return float(((ours - theirs).norm(dim=1) / sizes.clamp_min(sizes.median() + 1e-12)).max())
