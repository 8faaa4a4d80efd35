"""Tables of pairs, written: from the ratings of a cache, or from described battles."""

from collections.abc import Sequence
from io import BytesIO

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.battles import pairs_of_battles, pairs_of_ratings, shipped_battles
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.files import refuse_other, write_file
from qamro_cache.paths import PathLike, as_path


def write_pairs(
    sources: Sequence[PathLike], out: PathLike, data_dir: PathLike | None = None
) -> dict[str, int]:
    """Write ``pairs.csv`` for ``--pairs`` of qamro-train.

    Args:
        sources: cache files, whose raters rated several clips of a group in one trial; or a
            description of battles (``.toml``), or the name of one that comes along.
        out: the table; one that is there already is kept, unless it is this very one.
        data_dir: of a description, the folder of its files.

    Returns:
        Counts: ``pairs``, ``ties``, ``raters`` and ``clips``.

    Raises:
        QamroError: there are no pairs in it, or ``out`` is another file.
    """
    out = as_path(out, "a table of pairs")
    first = sources[0]
    if str(first) in shipped_battles() or str(first).endswith(".toml"):
        if len(sources) > 1:
            raise OptionError(
                f"{first} is a description, and {sources[1]} another source; name one"
            )
        table = pairs_of_battles(first, data_dir)
    else:
        if data_dir is not None:
            raise OptionError("--data-dir is for a description's files, and none is named")
        cache = open_cache(sources)
        table = pairs_of_ratings(cache.clips, cache.labels, cache.dataset)
    if table.empty:
        raise QamroError(f"{first}: there is no pair in it; see docs/pairs.md for what makes one")
    made = BytesIO()
    table.to_csv(made, index=False, errors="surrogateescape")
    # Verdicts that somebody has collected have the same columns.
    refuse_other(out, "table of these pairs", lambda path: path.read_bytes() == made.getvalue())
    write_file(out, lambda file: file.write(made.getvalue()))
    return {
        "pairs": len(table),
        "ties": int((table["winner"] == "tie").sum()),
        "raters": len(table.loc[table["rater"] != "", ["source", "rater"]].drop_duplicates()),
        "clips": len(set(table["clip_a"]) | set(table["clip_b"])),
    }
