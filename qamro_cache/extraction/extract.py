"""Stage 1: a rated set of clips and an encoder to one cache file.

Finished units go to shards in ``OUT.parts``; at the end the shards become ``OUT`` in one step.
Whatever stops the run, the same command goes on where it was.
"""

import logging
import platform
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qamro_cache.audio.check import oddity_message
from qamro_cache.audio.fingerprint import FINGERPRINT
from qamro_cache.cache.content import Header
from qamro_cache.cache.tables import Tables
from qamro_cache.datasets.axes import notice_guessed, take_axes, with_scales
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.options import parse_scales, refuse_columns
from qamro_cache.datasets.records import Dataset, select_clips
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.encoders.registry import license_of, refuse_encoder
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.extraction.engine import Engine, make_engine
from qamro_cache.extraction.estimate import feature_bytes
from qamro_cache.extraction.folder import WorkFolder
from qamro_cache.extraction.publish import publish
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.reuse import as_earlier, find_kept
from qamro_cache.extraction.shards import ShardWriter
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import plan_units, shard_path, shard_rows
from qamro_cache.files import plain_target
from qamro_cache.identity import identity_of
from qamro_cache.memory import refuse_disk
from qamro_cache.paths import PathLike, as_path, refuse_misread
from qamro_cache.settings import documented, from_options

if TYPE_CHECKING:
    from qamro_cache.encoders.protocol import Encoder

logger = logging.getLogger("qamro_cache")

#: The encoder of a set for which none is named; it needs nothing that is not installed.
DEFAULT_ENCODERS = {"demo": "distillmos"}
_RECORDED = ("qamro-cache", "torch", "numpy", "soundfile", "soxr", "torchaudio", "h5py")


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
        synthetic: whether the clips and their ratings are made by a program.
        max_failures: failed clips that are not too many.
        precision: that the encoder computed in.
    """

    out: Path
    clips: int
    ok: int
    failed: dict[str, int]
    windows: int
    stats: Stats
    synthetic: bool = False
    max_failures: int = 0
    precision: str = ""

    @property
    def failures(self) -> int:
        """Clips of the cache that cannot be used."""
        return self.clips - self.ok

    @property
    def too_many_failures(self) -> bool:
        """Whether more clips failed than were allowed."""
        return self.failures > self.max_failures

    def record(self) -> dict[str, Any]:
        """Return the summary as JSON types."""
        return {
            "out": str(self.out),
            "synthetic": self.synthetic,
            "clips": self.clips,
            "ok": self.ok,
            "failures": self.failures,
            "failed": self.failed,
            "windows": self.windows,
            "precision": self.precision,
            "extracted": self.stats.clips_done,
            "reused": self.stats.clips_reused,
            "odd_levels": {oddity: count for oddity, (count, _) in self.stats.odd.items()},
            **self.stats.figures(),
        }


@documented(ExtractRequest)
def extract(
    dataset: Dataset | PathLike | None = None,
    out: PathLike | None = None,
    encoder: "Encoder | str" = "",
    *,
    manifest: PathLike | None = None,
    progress: Callable[[Stats], None] | None = None,
    **options: Any,
) -> Summary:
    """Encode every clip of a set into a cache file, going on where an earlier run stopped.

    Args:
        dataset: the clips, their prompts and ratings; or a known set's name or a description
            (``.toml``); or name ``manifest``.
        out: cache file to make; clips that are in it already, from the same audio, are kept. With
            ``shard="i/n"`` the i-th of n parts goes into ``OUT-0000i-of-0000n.h5``.
        encoder: its name, as qamro-extract takes it; or an encoder in eval mode on the device.
        manifest: a table of your own clips, whatever its name ends in.
        progress: called after every unit, and now and then within one.
        options: those of qamro-extract by their names.

    Returns:
        The counts; a clip that failed is a row with its reason and not an error.

    Raises:
        QamroError: an option that cannot be; ``out`` holds another identity or other clips,
            another process writes it, the clips' folder is gone, the disk is full, or the encoder
            does not give what it promises; the finished clips are kept for the next run.
    """
    request = from_options(ExtractRequest, options)
    if not encoder and not isinstance(dataset, Dataset):
        encoder = DEFAULT_ENCODERS.get(str(dataset), "")
    if not encoder or out is None:
        raise OptionError(
            "give --dataset NAME or --manifest FILE, --out FILE and --encoder NAME "
            "(--list-encoders shows them)"
        )
    if isinstance(encoder, str):
        refuse_encoder(encoder)
    plain_target(as_path(out))
    if isinstance(encoder, str):
        request = as_earlier(request, as_path(out), encoder)
    clips = load_clips(dataset, manifest, request)
    with closing(make_engine(encoder, request, clips.clips["path"].tolist())) as engine:
        notice_guessed(clips.labels.axes)
        return run_extraction(clips, out, engine, request, progress)


def load_clips(
    dataset: Dataset | PathLike | None, manifest: PathLike | None, request: ExtractRequest
) -> Dataset:
    """Return the clips that `extract` is to encode; ``dataset`` and ``manifest`` as there."""
    if (dataset is None) == (manifest is None):
        raise OptionError("give either --dataset NAME or --manifest FILE")
    data_dir, axes, scale = request.data_dir, request.axis, request.scale
    if manifest is not None:
        clips = load_manifest(manifest, data_dir, columns=request.columns, axes=axes, scale=scale)
        if not axes and (rated := [axis.name for axis in clips.labels.axes]):
            told = "%s: axes that are rated: %s; --axis takes some alone"
            logger.info(told, as_path(manifest), ", ".join(rated))
        return clips
    refuse_columns(request.columns, "--manifest FILE", table=False)
    assert dataset is not None
    clips = dataset if isinstance(dataset, Dataset) else load_dataset(dataset, data_dir)
    clips = take_axes(clips, axes)
    labels = with_scales(clips.labels, parse_scales(scale), clips.clips["clip_id"].tolist())
    return replace(clips, labels=labels)


def run_extraction(
    dataset: Dataset,
    out: PathLike,
    engine: Engine,
    request: ExtractRequest,
    progress: Callable[[Stats], None] | None = None,
) -> Summary:
    """Extract with any engine; see ``extract``."""
    steps = extraction(dataset, out, engine, request, progress)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            summary: Summary = end.value
            return summary


def extraction(
    dataset: Dataset,
    out: PathLike,
    engine: Engine,
    request: ExtractRequest,
    progress: Callable[[Stats], None] | None = None,
) -> Generator[Stats, None, Summary]:
    """Extract with any engine, a unit a step; see ``extract``."""
    out = as_path(out)
    _check_clips(dataset)
    recorded = {**_provenance(), **engine.provenance}
    if request.part is not None:
        first, last = shard_rows(len(dataset.clips), request.part, engine.batch_size)
        dataset = select_clips(dataset, np.arange(first, last))
        out = shard_path(out, request.part)
        recorded["shard"] = request.shard
    if engine.spec.precision == "bfloat16":
        logger.warning(
            "bfloat16 errs by some percent of the distance between two clips (clap: below 10 %; "
            "float16: below 1 %); prefer --precision float16"
        )
    licenses = {"encoder": license_of(engine.spec.name), "data": dataset.license}
    licenses = {name: text for name, text in licenses.items() if text}
    identity = identity_of(engine.spec, request.dtype)
    header = Header(identity, dataset.name, dataset.synthetic, recorded, licenses)
    stats = Stats(clips_total=len(dataset.clips), on_move=progress)
    with WorkFolder(out) as folder:
        kept, done = find_kept(dataset, out, header, folder, request.retry_failed)
        stats.clips_reused = len(done)
        units = plan_units(dataset.clips, done, engine.unit)
        # What is new lies in shards and then in the output as well, beside what was there.
        new = feature_bytes(units, engine.spec, request.dtype)
        there = sum(source.container.path.stat().st_size for source in kept)
        refuse_disk(2 * new + (there if new else 0), out)
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
                    yield stats
        made = publish(dataset, out, header, kept + folder.written())
        folder.clear()
    for oddity, (count, names) in stats.odd.items():
        logger.warning("%s", oddity_message(oddity, count, names))
    summary = _summary(out, made, stats, dataset.synthetic, request.max_failures)
    return replace(summary, precision=engine.spec.precision)


def _summary(out: Path, made: Tables, stats: Stats, synthetic: bool, max_failures: int) -> Summary:
    status = made.clips["status"]
    failed = status[status != "ok"].value_counts().sort_index()
    return Summary(
        out,
        len(status),
        int((status == "ok").sum()),
        {str(code): int(count) for code, count in failed.items()},
        len(made.weights),
        stats,
        synthetic,
        max_failures,
    )


def _check_clips(dataset: Dataset) -> None:
    ids = dataset.clips["clip_id"]
    if not len(ids):
        raise QamroError(f"dataset {dataset.name} has no clips")
    if ids.duplicated().any():
        raise QamroError(f"clip {ids[ids.duplicated()].iloc[0]!r} is in {dataset.name} twice")
    refuse_misread([*ids, *dataset.clips["path"]])


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
        "fingerprint": FINGERPRINT,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
