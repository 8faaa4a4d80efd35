"""Names of clips, systems, groups, splits, raters: which are one, and which belong together."""

import logging
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.audio.endings import ENDINGS
from qamro_cache.datasets.tables import Text, factorize, text
from qamro_cache.errors import QamroError

logger = logging.getLogger("qamro_cache")

#: Characters without width, which no eye can tell from none.
_INVISIBLE = "\u200b\u2060\ufeff"


def clean_id(name: str) -> str:
    """Return a name without blanks around it, in Unicode's composed form (NFC)."""
    name = name.strip()
    return name if name.isascii() else unicodedata.normalize("NFC", name.strip(_INVISIBLE).strip())


def clean_ids(values: Text, column: str, where: str) -> Text:
    """Clean a column of names; a notice says what was changed, and what differs by case alone.

    Args:
        values: [R] names as written.
        column: what they are, for the notice.
        where: the file, for the notice.
    """
    codes, names = factorize(values)
    cleaned = np.array([clean_id(str(name)) for name in names], object)
    changed = np.flatnonzero(cleaned != names)
    if len(changed):
        first = int(changed[0])
        logger.info(
            "%s: %d names in %r have blanks around them or letters in another Unicode form; "
            "the first, %a, is taken for %r",
            where,
            len(changed),
            column,
            names[first],
            cleaned[first],
        )
    point_out_case(cleaned, column, where)
    return cleaned[codes] if len(changed) else values


def point_out_case(names: Iterable[str], column: str, where: str) -> None:
    """Log the first two names that differ by case alone (arguments as in `clean_ids`)."""
    folded: dict[str, str] = {}
    for name in dict.fromkeys(names):
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            logger.warning(
                "%s: %r and %r in %r differ by case alone; they are taken for two",
                where,
                other,
                name,
                column,
            )
            break


def prompt_key(prompt: str) -> str:
    """Return what prompts that differ only in case, blanks or punctuation have in common."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    kept = "".join(c for c in text if unicodedata.category(c)[0] not in "PZC")
    return kept or text.strip()


def one_spelling(prompts: Sequence[str]) -> list[str]:
    """Return for each prompt the first, by the alphabet, of those that are the same one."""
    spelling: dict[str, str] = {}
    for prompt in sorted(set(prompts)):
        spelling.setdefault(prompt_key(prompt), prompt)
    return [spelling[prompt_key(prompt)] for prompt in prompts]


def match_ids(have: Sequence[str], want: Sequence[str]) -> npt.NDArray[np.int64]:
    """Find each of ``want`` in ``have``; -1 if absent.

    A name is found as it is written, else cleaned, else where one of the two sides leaves out the
    suffix of an audio file; ``s.wav`` is never ``s.mp3``, and what was found in one way is not
    given away in the next.

    Raises:
        QamroError: two of ``want`` are one of ``have``.
    """
    at = np.full(len(want), -1, np.int64)
    ways: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
        (str, str),
        (clean_id, clean_id),
        (id_stem, clean_id),
        (clean_id, id_stem),
    )
    for ours, theirs in ways:
        if not (at < 0).any():
            break
        _match(have, want, at, ours, theirs)
    return at


def _match(
    have: Sequence[str],
    want: Sequence[str],
    at: npt.NDArray[np.int64],
    ours: Callable[[str], str],
    theirs: Callable[[str], str],
) -> None:
    """Find in one way what was not found before."""
    given = set(at[at >= 0].tolist())
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(have):
        rows.setdefault(ours(name), []).append(row)
    found: dict[int, str] = {}
    for place in np.flatnonzero(at < 0):
        name = want[place]
        hits = rows.get(theirs(name), ())
        if len(hits) > 1:
            logger.warning(
                "%r may be %r or %r; it is taken for neither", name, have[hits[0]], have[hits[1]]
            )
        elif hits and hits[0] not in given:
            if hits[0] in found and found[hits[0]] != name:
                raise QamroError(
                    f"{found[hits[0]]!r} and {name!r} would both be {have[hits[0]]!r}; "
                    "write the ids as they are on the other side"
                )
            found[hits[0]] = name
            at[place] = hits[0]


def id_stem(name: str) -> str:
    """Return a clean clip id without the suffix of an audio file."""
    name = clean_id(name)
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending.lower() in ENDINGS else name


def resolved_references(clips: pd.DataFrame, where: str) -> Text:
    """Return each clip's reference by its id; a clip that others refer to is its own.

    As anywhere, one of the two may leave out the suffix of an audio file.

    Args:
        clips: ``clip_id`` and ``reference`` (empty: none), [C] each.
        where: the file, for messages.

    Raises:
        QamroError: a reference that is no clip, or has another reference itself.
    """
    ids, found = text(clips, "clip_id"), text(clips, "reference").copy()
    row_of = {clip: row for row, clip in enumerate(ids)}
    typed = [name for name in dict.fromkeys(found) if name and name not in row_of]
    places = match_ids(list(ids), typed)
    meant = {name: ids[at] for name, at in zip(typed, places, strict=True) if at >= 0}
    found = np.array([meant.get(name, name) for name in found], object)
    for row in np.flatnonzero(found != ""):
        said = f"{where}: clip {ids[row]!r} has the reference {found[row]!r}, which"
        other = row_of.get(found[row])
        if other is None:
            raise QamroError(f"{said} is no clip there; name one by its clip_id, or leave it empty")
        if found[other] not in ("", ids[other]):
            raise QamroError(
                f"{said} refers on to {found[other]!r}; a reference has itself as its reference, "
                "or none"
            )
        found[other] = ids[other]
    return found
