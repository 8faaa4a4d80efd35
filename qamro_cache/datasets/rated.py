"""A person's table of ratings: its clips, who rated, and the scores of each axis."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qamro_cache.datasets.assemble import ClipRows, group_rows, labels_of_rows
from qamro_cache.datasets.axes import make_axis, refuse_unknown
from qamro_cache.datasets.cells import all_numbers
from qamro_cache.datasets.columns import FIELDS, SCORES, PeopleTable, key, read_people
from qamro_cache.datasets.ids import clean_ids, point_out_case
from qamro_cache.datasets.options import Scales, as_option
from qamro_cache.datasets.records import CLIP_COLUMNS, Axis, Labels
from qamro_cache.datasets.tables import Text, factorize, numbers, text
from qamro_cache.errors import QamroError, Together, at_rows, quoted, unknown

#: What to do about a cell that is no number.
_MEND = (
    "correct it (several raters' scores in a cell: 3;4;5), leave it empty, remove the column if it "
    "holds no scores, or name the axes (--axis of qamro-extract and qamro-train)"
)
_STARTS_A_NUMBER = re.compile(r"\s*[+-]?[.,]?\d")

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class RatedTable:
    """Clips and scores as a table has them.

    Attributes:
        path: of the file.
        numbers: [R] the rows of the file.
        fields: of `CLIP_COLUMNS` those that the file has.
        rows: the clips, and which row is of which.
        raters: [R] who rated; None where a row is a clip's mean.
        scores: axis -> [R], NaN where a row says nothing about it.
        files_by_id: see `PeopleTable`.
    """

    path: Path
    numbers: npt.NDArray[np.int64]
    fields: tuple[str, ...]
    rows: ClipRows
    raters: Text | None
    scores: dict[str, npt.NDArray[np.float64]]
    files_by_id: bool = False

    def labels(self, scales: Scales, known: Sequence[Axis] = ()) -> Labels:
        """Return the clips' labels.

        Args:
            scales: of the axes, as a user names them.
            known: axes of which one of the same name keeps its scale if that holds the scores.

        Raises:
            QamroError: a scale is for no axis, or does not hold the scores.
        """
        refuse_unknown(scales, list(self.scores))
        keeps = {axis.name: axis for axis in known if axis.name not in scales}
        axes = tuple(
            keeps[name]
            if name in keeps and _holds(keeps[name], score)
            else make_axis(name, score, self.numbers, self.path, scales)
            for name, score in self.scores.items()
        )
        labels = labels_of_rows(self.rows, axes, list(self.scores.values()), self.raters)
        again, alike = labels.ratings.repeats() if labels.ratings else (0, 0)
        if again:
            logger.warning(
                "%s: %d ratings are a rater's second of the same clip, %d of them with the same "
                "score; all count: if an export was sent twice, leave one of the two out",
                self.path,
                again,
                alike,
            )
        return labels


def _holds(axis: Axis, score: npt.NDArray[np.float64]) -> bool:
    finite = score[np.isfinite(score)]
    return not len(finite) or bool(axis.low <= finite.min() and finite.max() <= axis.high)


def read_rated(
    path: Path,
    need: Sequence[str],
    *,
    columns: Sequence[str] = (),
    axes: Sequence[str] = (),
    fields: Sequence[str] = CLIP_COLUMNS,
    strict: bool = True,
    check: Callable[[PeopleTable], None] = lambda table: None,
) -> RatedTable:
    """Read a table of clips and scores.

    Args:
        path: the file.
        need: fields that must be there, as for `read_people`.
        columns: what columns are, likewise.
        axes: those to take; none: every column that is no field, but for words that say nothing
            about scores.
        fields: of the clips, that are of use.
        strict: whether every one of ``axes`` must be there; else those that are, or all for none.
        check: raises what else is wrong with the table, to be told with the rest.

    Raises:
        QamroError: one line with the file, the row and what to do.
    """
    table = read_people(path, need, columns)
    frame = table.frame
    found = {name: text(frame, name) for name in fields if name in frame.columns}
    raters = text(frame, "rater") if "rater" in frame.columns else None
    if raters is None and table.lists:
        raters = np.full(len(frame), "", object)  # nobody is named
    rows_numbers = frame.index.to_numpy(dtype=np.int64)
    several = raters is not None or table.long
    names = axes if strict else [name for name in axes if name in frame.columns]
    mistakes = Together()
    rows, scores = None, {}
    with mistakes:
        check(table)
    with mistakes:
        rows = group_rows(found, str(path), rows_numbers, raters=several)
    with mistakes:
        scores = (
            _long_scores(table, rows, names, raters)
            if table.long
            else _wide_scores(table, rows, names)
        )
    mistakes.tell()
    assert rows is not None
    return RatedTable(path, rows_numbers, tuple(found), rows, raters, scores, table.files_by_id)


def _wide_scores(
    table: PeopleTable, rows: ClipRows | None, axes: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Read a column an axis; without ``rows``, whose mistakes are told, for its mistakes alone."""
    frame, path = table.frame, table.path
    others = [str(name) for name in frame.columns if name not in FIELDS or _is_axis(table, name)]
    mistakes = Together()
    taken: list[str] = []
    for name in axes or others:
        with mistakes:
            if name not in others:
                raise unknown(f"{path}, row 1: no column is the axis", name, others)
            if axes or not _says_nothing(table, rows, name):
                taken.append(name)
    scores = {}
    for name in taken:
        with mistakes:
            scores[name] = numbers(frame, name, path, mend=_MEND)
    mistakes.tell()
    point_out_case(taken, "columns", str(path))
    _notice_unused(table, [name for name in others if name not in taken])
    return scores


def _notice_unused(table: PeopleTable, names: Sequence[str]) -> None:
    if names:
        logger.info("%s: columns that are not used: %s", table.path, ", ".join(names))


def _is_axis(table: PeopleTable, name: str) -> bool:
    return name == "axis" and not table.long


def _says_nothing(table: PeopleTable, rows: ClipRows | None, name: str) -> bool:
    """Return whether a column is words about clips, and no scores.

    Raises:
        QamroError: it tells rows of one clip apart, so that their scores may be of several axes.
    """
    values = text(table.frame, name)
    cells = [cell for cell in factorize(values)[1] if cell.strip()]
    if not cells or any(_STARTS_A_NUMBER.match(cell) for cell in cells):
        return False
    if rows is None:
        return True
    odd = np.flatnonzero(values != values[rows.first][rows.code])
    if len(odd):
        raise QamroError(
            f"{at_rows(table.path, table.frame.index[odd])}{quoted(values[odd[0]])} in column "
            f"{name!r} is no number, and another row of the clip has another; remove the "
            "column, name the axes (--axis of qamro-extract and qamro-train), or, if it names the "
            f"axis of each row's score, say {as_option('axis', name)}"
        )
    return True


def _long_scores(
    table: PeopleTable, rows: ClipRows | None, axes: Sequence[str], raters: Text | None
) -> dict[str, npt.NDArray[np.float64]]:
    """Read a score a row, of the axis that the row names."""
    frame, path = table.frame, table.path
    others = [str(name) for name in frame.columns if name not in FIELDS]
    found = [name for name in others if key(name) in SCORES]
    found = found or [name for name in others if all_numbers(text(frame, name))]
    if len(found) != 1:
        raise QamroError(
            f"{path}, row 1: 'axis' names each row's axis, and its score may be in any of "
            f"{', '.join(found or others) or 'no column'}; say which with --columns score=COLUMN"
        )
    _notice_unused(table, [name for name in others if name not in found])
    score = numbers(frame, found[0], path, mend=_MEND)
    codes, names = factorize(clean_ids(text(frame, "axis"), "axis", str(path)))
    if "" in names:
        bare = frame.index[codes == list(names).index("")]
        raise QamroError(f"{at_rows(path, bare)}names no axis; name it")
    if raters is None and rows is not None:
        _refuse_several(table, rows, codes)
    for name in axes:
        if name not in names:
            raise unknown(f"{path}: no row is of the axis", name, list(names))
    return {
        str(name): np.where(codes == place, score, np.nan)
        for place, name in enumerate(names)
        if not axes or name in axes
    }


def _refuse_several(table: PeopleTable, rows: ClipRows, axis: npt.NDArray[np.intp]) -> None:
    """Refuse two scores of a clip on an axis by nobody."""
    cell = rows.code * (int(axis.max(initial=0)) + 1) + axis
    _, first, inverse = np.unique(cell, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(cell)))
    if len(again):
        clip = rows.clips["clip_id"].iloc[int(rows.code[again[0]])]
        raise QamroError(
            f"{at_rows(table.path, table.frame.index[again])}clip {clip!r} has a score on this "
            "axis already; remove one, or name each row's rater in a column `rater`"
        )
