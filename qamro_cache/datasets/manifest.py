"""``--manifest clips.csv``: anybody's own listening test."""

import os
import shlex
from collections.abc import Sequence

from qamro_cache.datasets.audio_files import audio_paths, refuse_foreign
from qamro_cache.datasets.columns import PeopleTable
from qamro_cache.datasets.ids import resolved_references
from qamro_cache.datasets.options import parse_scales
from qamro_cache.datasets.rated import read_rated
from qamro_cache.datasets.records import Dataset
from qamro_cache.datasets.tables import text
from qamro_cache.errors import QamroError, quoted
from qamro_cache.paths import PathLike, as_path, title_of


def load_manifest(
    path: PathLike,
    data_dir: PathLike | None = None,
    *,
    columns: Sequence[str] = (),
    axes: Sequence[str] = (),
    scale: Sequence[str] = (),
) -> Dataset:
    """Read a list of clips and ratings, as docs/datasets.md describes it.

    Args:
        path: a UTF-8 file with a header. Columns ``path`` and, unless its stems are unique,
            ``clip_id``; optionally ``system``, ``prompt``, ``split``, ``group``, ``reference`` (a
            clip's id), ``rater``; every other column is an axis of numbers (empty: not rated).
            With a ``rater`` column several rows may rate one clip; rows with the same in every
            cell count once. Clips without a path are left out with a notice.
        data_dir: folder that relative audio paths start from; None: the manifest's own.
        columns: what columns are, for example ``path=filename,quality=mos``.
        axes: those to take; none: all.
        scale: of axes, for example ``quality=0:100``; of others it is guessed.

    Raises:
        QamroError: one line with the file, the row and what to do.
    """
    path = as_path(path, "a manifest")
    scales = parse_scales(scale)
    # Links stay as they are.
    start = os.path.join(os.path.abspath(data_dir or path.parent), "")  # noqa: PTH100, PTH118

    def check(people: PeopleTable) -> None:
        refuse_foreign(path, text(people.frame, "path"), people.frame.index, start)

    table = read_rated(path, ("path", "clip_id"), columns=columns, axes=axes, check=check)
    clips = table.rows.clips
    if clips.empty:
        raise QamroError(f"{path}, row 2: there are no clips; add a row for each")
    labels = table.labels(scales)
    clips["path"] = audio_paths(path, text(clips, "path"), start, search=data_dir is None)
    if table.files_by_id and not any(map(os.path.isfile, clips["path"])):
        raise QamroError(
            f"{path}, row 1: there is no column 'path', and no audio file is called as a clip is "
            f"({quoted(clips['clip_id'].iloc[0])}); add the column, say which it is with --columns "
            "path=COLUMN, or where the files are with --data-dir"
        )
    clips["reference"] = resolved_references(clips, str(path))
    notes = tuple(
        f"scale of {axis.name}: {axis.low:g} to {axis.high:g}, guessed from the scores seen; "
        f"--scale {shlex.quote(axis.name)}=LOW:HIGH names it"
        for axis in labels.axes
        if axis.guessed
    )
    return Dataset(title_of(path), clips, labels, notes=notes)
