"""``answer.txt`` of the AudioMOS Challenge 2025: written, read, and checked against its list.

Track 1: no header; ``id,overall,textual``, as the challenge's baseline writes it. Track 2: the
header ``sample_id,PQ,PC,CE,CU`` and a row a clip, as published entries write it; the challenge's
own description is not at hand, so a file without that header is read as well. Ids are without
``.wav`` in both. The challenge takes it as a zip.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.answer_zip import MEMBER, is_zip, unzipped, zipped
from qamro_cache.datasets.ids import clean_id, id_stem, match_ids
from qamro_cache.datasets.tables import numbers, read_table, text
from qamro_cache.errors import QamroError
from qamro_cache.files import refuse_other, write_file, write_text

#: Track -> its axes in the order of the columns; the names are those of the datasets here.
TRACK_AXES: dict[int, tuple[str, ...]] = {1: ("overall", "textual"), 2: ("PQ", "PC", "CE", "CU")}


@dataclass(frozen=True)
class Answer:
    """Predictions for a challenge.

    Attributes:
        track: 1 or 2.
        clip_ids: ids as written; those of a challenge are without ``.wav``.
        scores: [N, A] float64, columns ``TRACK_AXES[track]``.
    """

    track: int
    clip_ids: tuple[str, ...]
    scores: npt.NDArray[np.float64]


def answer_rows(
    path: Path, clip_ids: Sequence[str], listed: Sequence[str] | None
) -> tuple[npt.NDArray[np.intp], list[str]]:
    """Return the row of each line of an answer, and its id; asked before the work, too.

    Args:
        path: the answer, for messages.
        clip_ids: [N] ids that there are predictions for, or will be.
        listed: ids that the challenge asks for; None: all.

    Raises:
        QamroError: an id is there twice or cannot stand in such a file, or a listed one is not
            there.
    """
    # An id may leave out .wav; s.mp3 is another clip than the s.wav that is asked for.
    names = clip_ids if listed is not None else [id_stem(name) for name in clip_ids]
    if len(set(names)) < len(names):
        again = Counter(names).most_common(1)[0][0]
        raise QamroError(f"{path}: clip {again!r} has two predictions; keep one")
    asked = clip_ids if listed is None else listed
    rows = np.arange(len(clip_ids)) if listed is None else match_ids(clip_ids, listed)
    wanted = [id_stem(name) for name in asked]
    _check_writable(path, wanted)
    if (rows < 0).any():
        first = asked[int(np.argmax(rows < 0))]
        raise QamroError(
            f"{path}: {int((rows < 0).sum())} of {len(wanted)} listed clips have no prediction, "
            f"the first is {first!r}; add them, or name the right list"
        )
    return rows, wanted


def write_answer(
    path: Path,
    clip_ids: Sequence[str],
    predictions: Mapping[str, npt.NDArray[np.float64]],
    track: int,
    listed: Sequence[str] | None = None,
) -> None:
    """Write an answer file.

    Args:
        path: usually ``answer.txt``; one that ends in ``.zip`` is a zip with ``answer.txt`` in it,
            as the challenge takes it, and is read back.
        clip_ids: [N] ids, with or without ``.wav``.
        predictions: axis -> [N]; the axes of the track, others are not written.
        track: 1 or 2.
        listed: ids that the challenge asks for; rows are put in this order, clips that are not
            asked for are left out. None: all clips in the order given.

    Raises:
        QamroError: a clip that is asked for has no prediction, an axis is missing, an id is there
            twice or cannot stand in such a file, a prediction is not finite, or another file of
            that name is there; nothing is written then.
    """
    if track not in TRACK_AXES:
        raise QamroError(f"no track {track}; use 1 or 2")
    absent = [axis for axis in TRACK_AXES[track] if axis not in predictions]
    if absent:
        raise QamroError(
            f"{path}: no predictions for axis {absent[0]!r}, which track {track} asks for; "
            f"train a head for it (there are: {', '.join(predictions)})"
        )
    rows, wanted = answer_rows(path, clip_ids, listed)
    scores = np.stack([np.asarray(predictions[axis])[rows] for axis in TRACK_AXES[track]], axis=1)
    answer = Answer(track, tuple(wanted), scores.astype(np.float64))
    _check_finite(answer, path, 2 if track == 2 else 1)
    lines = [
        ",".join([name, *(repr(float(score)) for score in row)])
        for name, row in zip(answer.clip_ids, answer.scores, strict=True)
    ]
    if track == 2:
        lines.insert(0, ",".join(["sample_id", *TRACK_AXES[2]]))
    refuse_other_answer(path)
    text = "\n".join(lines) + "\n"
    if not is_zip(path):
        write_text(path, text)
        return
    write_file(path, lambda file: file.write(zipped(text)))
    back = read_answer(path, listed)
    if back.clip_ids != answer.clip_ids or not np.array_equal(back.scores, answer.scores):
        raise QamroError(f"{path}: reads back as another answer; write it again")


def refuse_other_answer(path: Path) -> None:
    """Refuse to replace anything but an answer; a command asks before the work, too."""

    def is_ours(path: Path) -> bool:
        # A release's list of ratings looks like an answer but for the suffixes of its ids.
        return all(id_stem(name) == name for name in read_answer(path).clip_ids)

    refuse_other(path, "answer of qamro-predict", is_ours)


def read_answer(path: Path, listed: Sequence[str] | None = None) -> Answer:
    """Read an answer file and check it.

    Args:
        path: 3 columns (track 1) or 5 (track 2), with or without a header; or a zip with such an
            ``answer.txt`` in it.
        listed: ids that the challenge asks for, in its order (``read_answer_list``). A suffix
            may be left out here or there; ``s.mp3`` is no answer for ``s.wav``.

    Raises:
        QamroError: one line with the row: another number of columns, an id that is empty, repeated,
            missing, unknown or out of order, or a score that is not a finite number.
    """
    if not path.is_file():
        raise QamroError(f"{path}: no such file; give the path of an answer.txt")
    if is_zip(path):
        with TemporaryDirectory(prefix="qamro-answer-") as folder:
            inner = Path(folder, MEMBER)
            inner.write_bytes(unzipped(path))
            try:
                return read_answer(inner, listed)
            except QamroError as error:
                told = str(error).replace(str(inner), f"{path}: {MEMBER}")
                raise QamroError(told) from None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().rstrip("\r\n").split(",")
    track = {len(axes) + 1: track for track, axes in TRACK_AXES.items()}.get(len(first))
    if track is None:
        raise QamroError(
            f"{path}, row 1: {len(first)} columns; track 1 has 3 (id, overall, textual), "
            "track 2 has 5 (id, PQ, PC, CE, CU)"
        )
    axes = TRACK_AXES[track]
    has_header = not any(_is_number(cell) for cell in first[1:])
    if has_header and tuple(cell.strip() for cell in first[1:]) != axes:
        raise QamroError(
            f"{path}, row 1: columns {', '.join(first[1:])}; track {track} wants {', '.join(axes)} "
            "in this order"
        )
    frame = read_table(path, columns=None if has_header else ("id", *axes))
    ids = tuple(clean_id(name) for name in text(frame, str(frame.columns[0])))
    scores = np.stack([numbers(frame, axis, path) for axis in axes], axis=1)
    answer = Answer(track, ids, scores)
    rows = [int(number) for number in frame.index]
    _check_finite(answer, path, *rows[:1])
    _check_ids(answer, path, rows, listed)
    return answer


def read_answer_list(path: Path) -> list[str]:
    """Read the ids that an answer is for, as written: the first cell of each row of a list.

    Works for ``eval_list.txt`` and for lists with scores; a header row that names its first column
    ``sample_id`` or ``clip_id`` is skipped.
    """
    if not path.is_file():
        raise QamroError(f"{path}: no such file; give the challenge's list of clips")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise QamroError(f"{path}: is not UTF-8; save it as UTF-8") from None
    ids = [line.split(",")[0].strip() for line in lines if line.strip()]
    if ids and ids[0] in ("sample_id", "clip_id"):
        ids = ids[1:]
    if not ids:
        raise QamroError(f"{path}: lists no clips")
    return ids


def _check_writable(path: Path, ids: Sequence[str]) -> None:
    """See that ids can be read back: not empty, without commas and line ends, UTF-8, once each."""
    for name in ids:
        plain = name.isprintable() and not set(name) & {",", '"'} and name.strip() == name
        if not (name and plain):
            raise QamroError(f"{path}: the id {name!r} cannot stand in an answer; rename the clip")
    if len(set(ids)) < len(ids):
        again = Counter(ids).most_common(1)[0][0]
        raise QamroError(f"{path}: clip {again!r} is asked for twice; list it once")


def _check_finite(answer: Answer, path: Path, first_row: int = 1) -> None:
    bad = np.argwhere(~np.isfinite(answer.scores))
    if len(bad):
        row, axis = (int(number) for number in bad[0])
        raise QamroError(
            f"{path}, row {row + first_row}: {TRACK_AXES[answer.track][axis]} of "
            f"{answer.clip_ids[row]!r} is missing or not a finite number; predict it again"
        )


def _check_ids(
    answer: Answer, path: Path, rows: Sequence[int], listed: Sequence[str] | None
) -> None:
    seen: dict[str, int] = {}
    for row, name in zip(rows, answer.clip_ids, strict=True):
        if not name:
            raise QamroError(f"{path}, row {row}: the id is empty; write the clip's id there")
        if name in seen:
            raise QamroError(f"{path}, row {row}: {name!r} is already in row {seen[name]}")
        seen[name] = row
    if listed is None:
        return
    at = match_ids(answer.clip_ids, listed)
    known = set(at.tolist())
    for index, name in enumerate(answer.clip_ids):
        if index not in known:
            raise QamroError(f"{path}, row {rows[index]}: {name!r} is not in the list; remove it")
    if (at < 0).any():
        raise QamroError(
            f"{path}: {len(rows)} rows for {len(listed)} listed clips; "
            f"{id_stem(listed[int(np.argmax(at < 0))])!r} is missing; add its row"
        )
    if len(at) > len(known):
        again = Counter(at.tolist()).most_common(1)[0][0]
        raise QamroError(f"{path}: the list has {answer.clip_ids[again]!r} twice; mend the list")
    moved = np.flatnonzero(at != np.arange(len(at)))
    if len(moved):
        first = int(moved[0])
        raise QamroError(
            f"{path}, row {rows[first]}: {answer.clip_ids[first]!r} stands where the list has "
            f"{id_stem(listed[first])!r}; write the rows in the list's order"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
