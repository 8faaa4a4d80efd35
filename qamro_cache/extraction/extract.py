"""Stage 1: a rated set of clips and an encoder to one cache file.

Finished units go to shards in ``OUT.parts``; at the end the shards become ``OUT`` in one step.
Whatever stops the run, the same command goes on where it was.
"""

import hashlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from qamro_cache.audio.check import oddity_message
from qamro_cache.cache.content import CacheContent, Header, clip_table
from qamro_cache.cache.layout import label_arrays
from qamro_cache.cache.merge import Source, assemble, open_source
from qamro_cache.cache.reader import refuse_mixture
from qamro_cache.datasets.records import Dataset, Labels, select_clips
from qamro_cache.errors import QamroError
from qamro_cache.extraction.folder import WorkFolder
from qamro_cache.extraction.shards import ShardWriter
from qamro_cache.extraction.source import SourceFolder
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import Unit, default_batch, plan_units, shard_path, shard_rows
from qamro_cache.identity import EncoderSpec, identity_of

if TYPE_CHECKING:
    from qamro_cache.encoders.protocol import Encoder

logger = logging.getLogger("qamro_cache")

STORED_DTYPES = ("float32", "float16")
_MEASURED = ("status", "reason", "audio_sha256", "duration", "audio_bytes", "audio_mtime_ns")
_RECORDED = ("qamro-cache", "torch", "numpy", "soundfile", "soxr", "torchaudio", "h5py")


class Engine(Protocol):
    """What encodes units: this process, or many."""

    @property
    def spec(self) -> EncoderSpec:
        """Of the encoder."""
        ...

    def run(self, units: Sequence[Unit], stats: Stats) -> Iterator[CacheContent]:
        """Yield the content of each unit, in any order."""
        ...


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        out: the cache file.
        clips: rows of it.
        ok: of those, usable.
        failed: of those, by status.
        windows: of the cache.
        stats: of this run.
    """

    out: Path
    clips: int
    ok: int
    failed: dict[str, int]
    windows: int
    stats: Stats

    @property
    def failures(self) -> int:
        """Clips of the cache that cannot be used."""
        return self.clips - self.ok

    def record(self) -> dict[str, Any]:
        """Return the summary as JSON types."""
        return {
            "out": str(self.out),
            "clips": self.clips,
            "ok": self.ok,
            "failures": self.failures,
            "failed": self.failed,
            "windows": self.windows,
            "extracted": self.stats.clips_done,
            "reused": self.stats.clips_reused,
            "odd_levels": {oddity: count for oddity, (count, _) in self.stats.odd.items()},
            **self.stats.figures(),
        }


def extract(
    dataset: Dataset,
    out: str | Path,
    encoder: "Encoder",
    *,
    device: str = "cpu",
    batch_size: int = 0,
    workers: int = 0,
    dtype: str = "float32",
    shard: tuple[int, int] | None = None,
    retry_failed: bool = False,
    progress: Callable[[Stats], None] | None = None,
) -> Summary:
    """Encode every clip of a set into a cache file, going on where an earlier run stopped.

    Args:
        dataset: the clips, their prompts and ratings.
        out: cache file to make; clips that are in it already, from the same audio, are kept.
        encoder: in eval mode on ``device``.
        device: torch device of the encoder.
        batch_size: most windows a batch, and clips a unit of work, which no batch crosses; 0: 8 on
            the CPU, 64 on a GPU.
        workers: decoding threads; 0: one a processor.
        dtype: stored type, ``float32`` or ``float16``.
        shard: (i, n): only the i-th of n parts, into ``OUT-0000i-of-0000n.h5``.
        retry_failed: try clips again that have failed before.
        progress: called after every unit.

    Returns:
        The counts; a clip that failed is a row with its reason and not an error.

    Raises:
        QamroError: ``out`` holds another identity or other clips, another process writes it, the
            clips' folder is gone, the disk is full, or the encoder does not give what it
            promises; the finished clips are kept for the next run.
    """
    from qamro_cache.extraction.pipeline import Pipeline

    if batch_size < 0 or workers < 0:
        raise QamroError("batch size and number of workers start at 0 (automatic)")
    batch_size = batch_size or default_batch(device)
    check = SourceFolder(dataset.clips["path"].tolist()).check
    threads = workers or available_processors()
    engine = Pipeline(encoder, device, batch_size, threads, dtype, check)
    return run_extraction(
        dataset,
        out,
        _Local(encoder.spec, engine),
        unit=batch_size,
        dtype=dtype,
        shard=shard,
        retry_failed=retry_failed,
        progress=progress,
        provenance={"device": device, "batch_size": batch_size, "workers": threads},
    )


def available_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Local:
    spec: EncoderSpec
    pipeline: Any

    def run(self, units: Sequence[Unit], stats: Stats) -> Iterator[CacheContent]:
        stats.workers = self.pipeline.workers
        yield from self.pipeline.run(units, stats)


def run_extraction(
    dataset: Dataset,
    out: str | Path,
    engine: Engine,
    *,
    unit: int,
    dtype: str = "float32",
    shard: tuple[int, int] | None = None,
    retry_failed: bool = False,
    progress: Callable[[Stats], None] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Summary:
    """Extract with any engine, in units of so many clips; see ``extract``."""
    if dtype not in STORED_DTYPES:
        raise QamroError(f"stored dtype {dtype!r} is unknown; use {' or '.join(STORED_DTYPES)}")
    out = Path(out)
    _check_clips(dataset)
    recorded = {**_provenance(), **(provenance or {})}
    if shard is not None:
        first, last = shard_rows(len(dataset.clips), shard, unit)
        dataset = select_clips(dataset, np.arange(first, last))
        out = shard_path(out, shard)
        recorded["shard"] = f"{shard[0]}/{shard[1]}"
    if engine.spec.precision == "bfloat16":
        logger.warning(
            "bfloat16 errs by some percent of the distance between two clips (clap: below 10 %; "
            "float16: below 1 %); prefer --precision float16"
        )
    header = Header(identity_of(engine.spec, dtype), dataset.name, dataset.synthetic, recorded)
    stats = Stats(clips_total=len(dataset.clips))
    with WorkFolder(out) as folder:
        kept, done = _kept(dataset, out, header, folder, retry_failed)
        stats.clips_reused = len(done)
        units = plan_units(dataset.clips, done, unit)
        if units:
            with (
                ShardWriter(folder, header, stats) as writer,
                closing(engine.run(units, stats)) as contents,  # type: ignore[type-var]
            ):
                if progress is not None:
                    progress(stats)
                for content in contents:
                    writer.add(content)
                    if progress is not None:
                        progress(stats)
        content = _publish(dataset, out, header, kept + folder.written())
        folder.clear()
    for oddity, (count, names) in stats.odd.items():
        logger.warning("%s", oddity_message(oddity, count, names))
    status = content.clips["status"]
    failed = status[status != "ok"].value_counts().sort_index()
    return Summary(
        out,
        len(status),
        int((status == "ok").sum()),
        {str(code): int(count) for code, count in failed.items()},
        len(content.weights),
        stats,
    )


def _check_clips(dataset: Dataset) -> None:
    ids = dataset.clips["clip_id"]
    if not len(ids):
        raise QamroError(f"dataset {dataset.name} has no clips")
    if not ids.is_unique:
        raise QamroError(f"clip {ids[ids.duplicated()].iloc[0]!r} is in {dataset.name} twice")


def _provenance() -> dict[str, Any]:
    versions = {}
    for package in _RECORDED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


# --------------------------------------------------------------------- what is there already


def _kept(
    dataset: Dataset, out: Path, header: Header, folder: WorkFolder, retry_failed: bool
) -> tuple[list[Source], set[str]]:
    """Return the files of earlier runs, and the clips that need no more work."""
    sources = []
    if out.exists():
        sources.append(open_source(out))
        extra = set(sources[0].content.clips["clip_id"]) - set(dataset.clips["clip_id"])
        if extra:
            raise QamroError(
                f"{out} holds {len(extra)} clips that {dataset.name} does not have "
                f"(one is {min(extra)!r}); give another --out, or move the file away"
            )
    sources += folder.parts()
    for source in sources:
        refuse_mixture(
            Path("this run"), header.identity, source.container.path, source.header.identity
        )
    now = {row[0]: row for row in _rows(dataset.clips, ("clip_id", "path", "prompt"))}
    done: set[str] = set()
    failed = 0
    for source in sources:
        columns = ("clip_id", "prompt", "status", "audio_sha256", "audio_bytes", "audio_mtime_ns")
        for clip_id, prompt, status, *audio in _rows(source.content.clips, columns):
            if clip_id not in now:
                continue
            # A later shard speaks for its clips, so an earlier verdict is taken back.
            done.discard(clip_id)
            if status != "ok" and retry_failed:
                continue
            _, path, wanted = now[clip_id]
            if prompt == wanted and _same_audio(path, *audio):
                done.add(clip_id)
                failed += status != "ok"
    if failed:
        logger.info("%d clips failed before and are left; --retry-failed tries them again", failed)
    return sources, done


def _rows(clips: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(clips[name].tolist() for name in columns), strict=True)


def _same_audio(path: str, sha256: str, nbytes: int, mtime_ns: int) -> bool:
    """Whether the bytes that ``path`` has now are those of a row.

    Size and time decide where they agree; else the hash does. A file that is gone cannot be
    compared; its row stays.
    """
    try:
        info = Path(path).stat()
    except (OSError, ValueError):
        return True
    if nbytes < 0 or (info.st_size, info.st_mtime_ns) == (nbytes, mtime_ns):
        return True
    if info.st_size == nbytes:
        try:
            with Path(path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    return True
        except OSError:
            return True
    logger.info("%s changed since it was extracted; it is extracted again", path)
    return False


# --------------------------------------------------------------------------------- the output


def _publish(
    dataset: Dataset, out: Path, header: Header, sources: Sequence[Source]
) -> CacheContent:
    """Make ``out`` of the rows of all files: the dataset's clips, in its order."""
    row_of: dict[str, tuple[int, int]] = {}
    for index, source in enumerate(sources):
        for row, clip_id in enumerate(source.content.clips["clip_id"]):
            row_of[clip_id] = (index, row)
    missing = [clip_id for clip_id in dataset.clips["clip_id"] if clip_id not in row_of]
    if missing:
        raise QamroError(
            f"{len(missing)} clips have no row yet (one is {missing[0]!r}), because a shard was "
            "damaged; run the same command again"
        )
    order = np.array([row_of[clip_id] for clip_id in dataset.clips["clip_id"]], np.int64)
    starts = np.cumsum([0] + [len(source.content.clips) for source in sources])
    measured = pd.concat([source.content.clips for source in sources], ignore_index=True)
    measured = measured.iloc[starts[order[:, 0]] + order[:, 1]].reset_index(drop=True)
    clips = dataset.clips.reset_index(drop=True).assign(
        **{name: measured[name] for name in _MEASURED}
    )
    clips = clip_table(clips)
    old = sources[0]
    unchanged = (
        old.container.path == out
        and (order == np.stack([np.zeros(len(order)), np.arange(len(order))], 1)).all()
        and old.header.dataset == header.dataset
        and old.header.synthetic == header.synthetic
        and old.content.clips.equals(clips)
        and _same_labels(clips, old.content.labels, dataset.labels)
    )
    if not unchanged:
        assemble(out, header, sources, order, clips, dataset.labels)
    return open_source(out).content


def _same_labels(clips: pd.DataFrame, ours: Labels, theirs: Labels) -> bool:
    a, b = label_arrays(clips, ours), label_arrays(clips, theirs)
    return a.keys() == b.keys() and all(
        np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in a
    )
