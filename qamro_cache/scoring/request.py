"""What is asked of `predict`, checked once, before torch is loaded."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qamro_cache.cache.reader import CacheLike, open_cache
from qamro_cache.datasets.answers import read_answer_list, refuse_other_answer
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.options import refuse_columns
from qamro_cache.datasets.records import Dataset
from qamro_cache.devices import refuse_device
from qamro_cache.errors import OptionError, QamroError, quoted
from qamro_cache.features.sources import Sources, join_caches
from qamro_cache.heads.names import head_path
from qamro_cache.memory import refuse_disk
from qamro_cache.paths import PathLike, as_list
from qamro_cache.scoring.folder import clips_of_folder, clips_of_list, grouped, with_company
from qamro_cache.scoring.options import PredictOptions
from qamro_cache.scoring.table import refuse_other_table
from qamro_cache.settings import from_options

if TYPE_CHECKING:
    from qamro_cache.heads.head import AnyHead

#: Stands for the files that are listed on stdin.
STDIN = "-"
#: Bytes of a row of a table, about.
_ROW = 100


@dataclass(frozen=True)
class PredictRequest:
    """A prediction that can begin.

    Attributes:
        head: a file of qamro-train, or one already loaded.
        sources: embeddings of the clips, or None where ``clips`` are to be embedded.
        clips: audio to embed.
        company: ids of clips that others are heard beside, without predictions.
        listed: ids that the answer is for, in their order; None for all clips.
        options: as given.
    """

    head: "Path | AnyHead"
    sources: Sources | None
    clips: Dataset | None
    company: frozenset[str]
    listed: list[str] | None
    options: PredictOptions

    @property
    def source(self) -> str:
        """What the clips come from, for people."""
        listed = self.clips is not None and str(self.options.audio) == STDIN
        told = None if listed else self.options.audio or self.options.manifest
        if told is None and self.sources is not None:
            told = self.sources.first.paths[0]
        return self.clips.name if told is None and self.clips is not None else str(told)

    @property
    def clip_ids(self) -> list[str]:
        """Of the clips that there will be predictions for."""
        source = self.clips if self.sources is None else self.sources
        assert source is not None
        return [str(name) for name in source.clips["clip_id"] if name not in self.company]


def predict_request(
    head: "PathLike | AnyHead",
    cache: CacheLike | Sequence[CacheLike] | None,
    clips: Dataset | None,
    given: Mapping[str, Any],
) -> PredictRequest:
    """Check what is asked of `predict`.

    Args:
        head: a head file, or one already loaded.
        cache: embeddings; or name ``clips``, ``audio`` or ``manifest``.
        clips: audio to embed.
        given: fields of `PredictOptions`.

    Raises:
        QamroError: an option cannot be right, a file is not there, or an output would replace
            somebody else's.
    """
    options: PredictOptions = from_options(PredictOptions, given)
    if not isinstance(clips, Dataset | None):
        raise OptionError(
            f"clips are a set such as load_manifest gives, got {quoted(clips)}; a table's file is "
            "named as manifest"
        )
    if sum(one is not None for one in (cache, clips, options.audio, options.manifest)) != 1:
        raise OptionError("name one of a cache, a folder of audio and a manifest")
    if options.answer_list is not None and options.answer is None:
        raise OptionError("a list of clips needs an answer to write; give --answer FILE")
    refuse_columns(options.columns, "--manifest FILE", table=options.manifest is not None)
    refuse_device(options.device)
    if isinstance(head, str | os.PathLike):
        head = head_path(head)
    if options.out is not None:
        refuse_other_table(options.out)
    if options.answer is not None:
        refuse_other_answer(options.answer)
    listed = None if options.answer_list is None else read_answer_list(options.answer_list)
    if options.group_by and options.audio is None:
        raise OptionError("group_by is for a folder of audio; else a column group has the groups")
    joined, company = None, frozenset[str]()
    if cache is not None:
        beside = [open_cache(one) for one in options.company]
        joined = join_caches([*as_list(cache), *beside])
        company = frozenset(name for one in beside for name in one.clips["clip_id"])
        _refuse_lost(company, joined)
    if options.audio is not None:
        clips = grouped(_clips_of(options.audio), options.group_by)
    elif options.manifest is not None:
        clips = load_manifest(options.manifest, columns=options.columns)
    if clips is not None:
        clips, company = with_company(clips, options.company, options.group_by)
    request = PredictRequest(head, joined, clips, company, listed, options)
    for path in (options.out, options.answer):
        if path is not None:
            refuse_disk(_ROW * len(request.clip_ids), path)
    return request


def _clips_of(audio: Path) -> Dataset:
    """Return the clips of a folder or a file, or of a list on stdin."""
    if str(audio) != STDIN:
        return clips_of_folder(audio)
    return clips_of_list(sys.stdin.buffer.read() if sys.stdin is not None else b"")


def _refuse_lost(company: frozenset[str], joined: Sources) -> None:
    """Refuse company that one of several encoders has not embedded: it would not be heard."""
    there = joined.clips["clip_id"][joined.clips["status"] != "missing"]
    if lost := sorted(company.difference(there)):
        raise QamroError(
            f"--company: {len(lost)} clips are not in a cache of each encoder ({lost[0]!r} for "
            "one); give --company once for each"
        )
