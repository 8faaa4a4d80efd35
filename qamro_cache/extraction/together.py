"""The same clips with several encoders at once, each file decoded once."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qamro_cache.audio.shared import SharedSounds
from qamro_cache.datasets.records import Dataset
from qamro_cache.extraction.engine import LocalEngine
from qamro_cache.extraction.extract import extraction
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.stats import Stats

if TYPE_CHECKING:
    from qamro_cache.encoders.protocol import Encoder


class Asked(NamedTuple):
    """One encoder, in eval mode on the request's device, and the cache file that it makes."""

    encoder: "Encoder"
    out: Path
    request: ExtractRequest


def extract_together(
    clips: Dataset, asked: Sequence[Asked], progress: Callable[[Stats], None] | None = None
) -> None:
    """Extract clips with each encoder as `extract` does, a unit with each in turn.

    Args:
        clips: to encode.
        asked: the encoders; all are in memory at once.
        progress: of the last encoder, behind which no other is.
    """
    paths = clips.clips["path"].tolist()
    sounds = SharedSounds(len(asked)) if len(asked) > 1 else None
    with ExitStack() as stack:
        running = []
        for k, (encoder, out, request) in enumerate(asked):
            engine = LocalEngine(encoder, request.device or "cpu", request, paths, sounds)
            told = progress if k == len(asked) - 1 else None
            steps = extraction(clips, out, engine, request, told)
            running.append(stack.enter_context(closing(steps)))
        while running:
            running = [one for one in running if next(one, None) is not None]
