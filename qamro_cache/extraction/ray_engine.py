"""Many encoders at once on a Ray cluster, or on this machine: one actor an encoder.

Work is handed out in chunks of units; results come back to this process, which alone writes. A
worker that dies is replaced and its chunks are done again. What a clip is batched with is decided
by its unit, so the cache has the content of a run in one process.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qamro_cache.cache.content import CacheContent
from qamro_cache.encoders.support import install_line
from qamro_cache.errors import QamroError
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import Unit, available_processors, default_batch
from qamro_cache.identity import EncoderSpec

if TYPE_CHECKING:
    from qamro_cache.encoders.protocol import Encoder
    from qamro_cache.extraction.pipeline import Pipeline

logger = logging.getLogger("qamro_cache")

#: Most units a chunk: enough to keep a GPU busy, little to do again.
CHUNK = 8
#: Chunks each worker has been given, so that it need not wait for this process.
AHEAD = 2
#: Times a chunk may take its worker down before the run stops.
ATTEMPTS = 3


def _make_pipeline(load: "Callable[[str], Encoder]", device: str, *settings: Any) -> "Pipeline":
    from qamro_cache.extraction.pipeline import Pipeline

    return Pipeline(load(device), device, *settings)


class EncodingWorker:
    """The actor: one encoder and its pipeline.

    Args:
        make: makes the pipeline; one object, which Ray sends to each machine once.
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


@dataclass
class _Chunk:
    units: list[Unit]
    attempts: int = 0


class RayEngine:
    """Hands units to Ray actors.

    Args:
        load: makes the encoder on a device; must travel to other machines (a partial of
            ``load_encoder``).
        request: ``ray`` is the cluster's address (``local``: this machine), and it says how many
            workers there are, and their GPUs, batch size, decoding threads and stored type.
        paths: of all clips, as the workers see them.

    Raises:
        QamroError: Ray is not installed, the cluster cannot be reached or is too small, or the
            encoder cannot be loaded there.
    """

    def __init__(
        self,
        load: "Callable[[str], Encoder]",
        request: ExtractRequest,
        paths: Sequence[str],
    ) -> None:
        try:
            import ray as imported
        except ImportError as error:
            raise QamroError(f"Ray is not installed; {install_line('ray')}") from error
        ray: Any = imported
        self._ray = ray
        self._connect(request.ray)
        try:
            self.num_workers, gpus = request.num_workers, request.gpus_per_worker
            found = ray.cluster_resources()
            if found.get("GPU", 0) < self.num_workers * gpus:
                raise QamroError(
                    f"{self.num_workers} workers with {gpus:g} GPUs each do not fit: "
                    f"the cluster has {found.get('GPU', 0):g}"
                )
            share = found.get("CPU", available_processors()) / self.num_workers
            self.workers = request.workers or max(1, int(share))
            device = "cuda" if gpus else "cpu"
            self.batch_size = self.unit = request.batch_size or default_batch(device)
            settings = (self.batch_size, self.workers, request.dtype, list(paths))
            self._make = ray.put(partial(_make_pipeline, load, device, *settings))
            self._actor = ray.remote(EncodingWorker).options(
                num_cpus=min(self.workers, share), num_gpus=gpus, max_restarts=0
            )
            self._idle = [self._start() for _ in range(self.num_workers)]
            self.spec = self._first_spec()
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
        ray = self._ray
        stats.encoders, stats.workers = self.num_workers, self.num_workers * self.workers
        size = max(1, min(CHUNK, len(units) // (4 * self.num_workers)))
        todo = deque(
            _Chunk(list(units[index : index + size])) for index in range(0, len(units), size)
        )
        share = sum(map(len, units)) // self.num_workers
        actors = list(self._idle)
        running: dict[Any, tuple[Any, _Chunk]] = {}  # result -> worker, chunk
        while todo or running:
            for actor in actors:
                while todo and sum(a is actor for a, _ in running.values()) < AHEAD:
                    chunk = todo.popleft()
                    running[actor.run.remote(chunk.units, share)] = (actor, chunk)
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            actor, chunk = running.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                # Every chunk that this worker held fails in the same way; do them all again.
                chunk.attempts += 1
                if chunk.attempts >= ATTEMPTS:
                    clips = [clip.clip_id for unit in chunk.units for clip in unit]
                    raise QamroError(
                        f"the worker died {ATTEMPTS} times on the {len(clips)} clips "
                        f"from {clips[0]!r} on ({type(error).__name__}); look for too little "
                        "memory or a file that crashes its decoder"
                    ) from error
                todo.appendleft(chunk)
                if any(actor is known for known in actors):
                    logger.warning(
                        "a worker was lost (%s); another takes its place", type(error).__name__
                    )
                    actors = [known for known in actors if known is not actor]
                    ray.kill(actor)
                    actors.append(self._start())
                continue
            if isinstance(result, str):
                raise QamroError(result)
            contents, worked = result
            stats.merge(worked)
            yield from contents
        self._idle = actors

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self._ray.shutdown()

    def _connect(self, address: str) -> None:
        try:
            self._ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if address == "local" else None,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise QamroError(
                f"no Ray cluster at {address!r} ({str(error).splitlines()[0]})"
            ) from error

    def _start(self) -> Any:
        return self._actor.remote(self._make)

    def _first_spec(self) -> EncoderSpec:
        try:
            found = self._ray.get(self._idle[0].spec.remote())
        except self._ray.exceptions.RayError as error:
            raise QamroError(
                f"a Ray worker cannot start ({str(error).splitlines()[-1][:200]}); "
                "is this program installed on the cluster's machines?"
            ) from error
        if isinstance(found, str):
            raise QamroError(found)
        return found  # type: ignore[no-any-return]
