"""What earlier runs have left for this one: their files, and the clips that need no more work."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

import pandas as pd

from qamro_cache.audio.open import file_state, open_regular
from qamro_cache.cache.checks import refuse_mixture
from qamro_cache.cache.container import open_container
from qamro_cache.cache.content import Header
from qamro_cache.cache.layout import header_of
from qamro_cache.cache.tables import Tables, open_tables
from qamro_cache.datasets.records import Dataset
from qamro_cache.errors import ClipError, QamroError
from qamro_cache.extraction.contents import storable_time
from qamro_cache.extraction.folder import WorkFolder, work_folder
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.units import ClipJob, shard_path

logger = logging.getLogger("qamro_cache")


_COMPARED = (*ClipJob._fields, "status", "audio_sha256", "audio_bytes", "audio_mtime_ns")


def as_earlier(request: ExtractRequest, out: Path, encoder: str) -> ExtractRequest:
    """Let ``--precision auto`` be that of what is there of this encoder, which another would spoil.

    Args:
        request: of the extraction.
        out: the cache file; of a part, those of the other parts are looked at too.
        encoder: its name.
    """
    if request.precision != "auto":
        return request
    files = [out, *_parts_of(out)]
    if request.part is not None:
        beside = out.parent.glob(f"{escape(out.stem)}-*-of-*{escape(out.suffix)}")
        files += [file for path in sorted(beside) for file in (path, *_parts_of(path))]
        files += _parts_of(shard_path(out, request.part))
    for path in filter(Path.is_file, files):
        with suppress(QamroError):  # said where it is opened for its clips
            identity = header_of(open_container(path)).identity
            if identity["name"].partition(":")[0] == encoder.partition(":")[0]:
                return replace(request, precision=identity["precision"])
    return request


def _parts_of(out: Path) -> list[Path]:
    return sorted(work_folder(out).glob("part-*.h5"))


def find_kept(
    dataset: Dataset, out: Path, header: Header, folder: WorkFolder, retry_failed: bool
) -> tuple[list[Tables], set[str]]:
    """Return the files of earlier runs, and the clips that need no more work."""
    sources = []
    if out.exists():
        sources.append(open_tables(out))
        extra = set(sources[0].clips["clip_id"]) - set(dataset.clips["clip_id"])
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
    now = {row[0]: row for row in _rows(dataset.clips, ClipJob._fields)}
    done: set[str] = set()
    failed = 0
    for source in sources:
        told = _times_tell(source.clips)
        for clip_id, path, prompt, status, *audio in _rows(source.clips, _COMPARED):
            if clip_id not in now:
                continue
            # A later shard speaks for its clips, so an earlier verdict is taken back.
            done.discard(clip_id)
            if status != "ok" and retry_failed:
                continue
            _, named, wanted = now[clip_id]
            if prompt == wanted and _same_audio(named, named == path, told, *audio):
                done.add(clip_id)
                failed += status != "ok"
    if failed:
        logger.info("%d clips failed before and are left; --retry-failed tries them again", failed)
    return sources, done


def _rows(clips: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(clips[name].tolist() for name in columns), strict=True)


def _times_tell(clips: pd.DataFrame) -> bool:
    """Whether the times of files say anything: archives, Nix and squashfs give all files one."""
    files = clips[clips["audio_bytes"] >= 0]
    return len(set(files["path"])) < 2 or len(set(files["audio_mtime_ns"])) > 1


def _same_audio(
    path: str, same_path: bool, told: bool, sha256: str, nbytes: int, mtime_ns: int
) -> bool:
    """Whether the bytes that ``path`` has now are those of a row.

    Size and time decide where they agree, the row is of this very path and times tell (``told``);
    else the hash does: a folder on the way may be a link, and name another one today. A file that
    is gone cannot be compared; the row of its path stays.
    """
    try:
        size, modified = file_state(path)
    except (OSError, ValueError, QamroError):
        return same_path
    unchanged = (size, storable_time(modified)) == (nbytes, mtime_ns)
    # Where there was no file to read, the next run leaves the clip: see --retry-failed.
    if same_path and ((unchanged and told) or nbytes < 0):
        return True
    if size == nbytes:
        try:
            with open_regular(Path(path)) as handle, open(handle, "rb", closefd=False) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    return True
        except ClipError:
            return same_path
    logger.info("%s changed since it was extracted; it is extracted again", path)
    return False
