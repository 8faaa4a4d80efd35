"""What a file promises, whatever its container: the one entrance to the walks."""

from collections.abc import Callable
from dataclasses import replace

from qamro_cache.audio.containers.aiff import is_aiff, walk_aiff
from qamro_cache.audio.containers.au import is_au, walk_au
from qamro_cache.audio.containers.caf import is_caf, walk_caf
from qamro_cache.audio.containers.flac import is_flac, walk_flac
from qamro_cache.audio.containers.mpeg import find_frames, is_mpeg, walk_mpeg
from qamro_cache.audio.containers.ogg import is_ogg, walk_ogg
from qamro_cache.audio.containers.rare import is_rare, walk_rare
from qamro_cache.audio.containers.riff import is_riff, walk_riff
from qamro_cache.audio.containers.sound import skip_padding
from qamro_cache.audio.containers.source import FileBytes, Part
from qamro_cache.audio.containers.tags import skip_tags
from qamro_cache.audio.containers.w64 import is_w64, walk_w64

Walk = Callable[[FileBytes, int, int], tuple[tuple[Part, ...], int]]

_WALKS: tuple[tuple[Callable[[bytes], bool], Walk], ...] = (
    (is_riff, walk_riff),
    (is_w64, walk_w64),
    (is_aiff, walk_aiff),
    (is_au, walk_au),
    (is_caf, walk_caf),
    (is_flac, walk_flac),
    (is_ogg, walk_ogg),
    (is_mpeg, walk_mpeg),
    (is_rare, walk_rare),
)


def promised_parts(data: FileBytes) -> tuple[Part, ...]:
    """Return the parts of a file that must be decoded, in order.

    Most files are one part, the whole file. Several are files glued together, or what a server
    sent in pieces; a part with a ``head`` or ``room`` has no right length in its own header.

    Raises:
        ClipError: ``unreadable``: the file holds less than it promises, or something else within.
    """
    place = first = skip_tags(data, 0, data.size)
    if place > 0:
        place = skip_padding(data, place, data.size)
    walk = _walk_of(data, place)
    if walk is None and place > 0 and (found := find_frames(data, place, data.size)) >= 0:
        # The decoder looks for MPEG behind a tag, too.
        place, walk = found, walk_mpeg
    if walk is None:
        return (Part(0, data.size),)
    parts: list[Part] = []
    while _walk_of(data, place) is walk:
        new, end = walk(data, place, data.size)
        parts += new
        if end <= place:
            break
        place = skip_padding(data, end, data.size)
    only = parts[0]
    if len(parts) == 1 and only.as_it_is and (only.start, only.stop) == (first, data.size):
        # Tags before the sound are the decoder's business.
        return (replace(only, start=0),)
    return tuple(parts)


def _walk_of(data: FileBytes, place: int) -> Walk | None:
    head = data.at(place, 24)
    return next((walk for is_kind, walk in _WALKS if is_kind(head)), None)
