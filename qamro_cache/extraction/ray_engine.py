"""Many encoders at once on a Ray cluster, or on this machine: one actor an encoder.

Work is handed out in chunks of units. What a clip is batched with is decided by its unit, so the
cache has the content of a run in one process.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qamro_cache.cache.content import CacheContent
from qamro_cache.errors import QamroError
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import Unit, available_processors, default_batch
from qamro_cache.identity import EncoderSpec
from qamro_cache.spread import RayPool

if TYPE_CHECKING:
    from qamro_cache.encoders.protocol import Encoder
    from qamro_cache.extraction.pipeline import Pipeline

#: Most units a chunk: enough to keep a GPU busy, little to do again.
CHUNK = 8
#: Chunks each worker has been given.
AHEAD = 2


def _make_pipeline(load: "Callable[[str], Encoder]", device: str, *settings: Any) -> "Pipeline":
    from qamro_cache.extraction.pipeline import Pipeline

    return Pipeline(load(device), device, *settings)


class EncodingWorker:
    """The actor: one encoder and its pipeline.

    Args:
        make: makes the pipeline.
    """

    def __init__(self, make: "Callable[[], Pipeline]") -> None:
        self.problem = ""
        try:
            self.pipeline = make()
        except QamroError as error:
            self.problem = str(error)

    def spec(self) -> EncoderSpec | str:
        """Return the encoder's description, or why there is none."""
        return self.problem or self.pipeline.encoder.spec

    def run(self, units: Sequence[Unit], clips: int) -> tuple[list[CacheContent], Stats] | str:
        """Encode units, of ``clips`` that will come in all; a user's mistake is its message."""
        if self.problem:
            return self.problem
        stats = Stats()
        try:
            return list(self.pipeline.run(units, stats, clips)), stats
        except QamroError as error:
            return str(error)


class RayEngine:
    """Hands units to Ray actors.

    Args:
        load: makes the encoder on a device; must travel to other machines (a partial of
            ``load_encoder``).
        request: ``ray`` is the cluster's address (``local``: this machine), and it says how many
            workers there are, and their GPUs, batch size, decoding threads and stored type.
        paths: of all clips, as the workers see them.

    Raises:
        QamroError: as `RayPool`, or the encoder cannot be loaded there.
    """

    def __init__(
        self,
        load: "Callable[[str], Encoder]",
        request: ExtractRequest,
        paths: Sequence[str],
    ) -> None:
        self.num_workers = request.num_workers
        self._pool = RayPool(request)
        try:
            share = self._pool.share or available_processors() / self.num_workers
            self.workers = request.workers or max(1, int(share))
            device = "cuda" if request.gpus_per_worker else "cpu"
            self.batch_size = self.unit = request.batch_size or default_batch(device)
            settings = (self.batch_size, self.workers, request.dtype, list(paths))
            make = partial(_make_pipeline, load, device, *settings)
            self._pool.start(EncodingWorker, make, min(self.workers, share))
            self.spec: EncoderSpec = self._pool.ask("spec")
            #: What is recorded in the cache.
            self.provenance: dict[str, Any] = {
                "ray_workers": self.num_workers,
                "batch_size": self.batch_size,
            }
        except BaseException:
            self.close()
            raise

    def run(self, units: Sequence[Unit], stats: Stats) -> Iterator[CacheContent]:
        """Yield the content of each unit, in the order in which they are finished."""
        stats.encoders, stats.workers = self.num_workers, self.num_workers * self.workers
        size = max(1, min(CHUNK, len(units) // (4 * self.num_workers)))
        share = sum(map(len, units)) // self.num_workers
        tasks = [(list(units[k : k + size]), share) for k in range(0, len(units), size)]

        def named(place: int) -> str:
            clips = [clip.clip_id for unit in tasks[place][0] for clip in unit]
            return (
                f"the {len(clips)} clips from {clips[0]!r} on: look for too little memory or a "
                "file that crashes its decoder"
            )

        for _, (contents, worked) in self._pool.run(tasks, named, AHEAD):
            stats.merge(worked)
            yield from contents

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self._pool.close()
