"""Rated sets by name: those described here, and those of other packages."""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

from qamro_cache.datasets.demo import load_demo
from qamro_cache.datasets.described import load_described
from qamro_cache.datasets.description import Description, read_description
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.records import Dataset
from qamro_cache.errors import OptionError, QamroError, nearest, words_of
from qamro_cache.paths import PathLike, as_path

#: Entry points of this group name a function ``(data_dir: Path | None) -> Dataset``.
ENTRY_POINTS = "qamro_cache.datasets"

#: Sets that a default of the training was chosen on, which flatters every figure on them.
_CHOSEN_ON = ("cvssp-separation",)

Loader = Callable[[Path | None], Dataset]


@cache
def descriptions() -> dict[str, Description]:
    """Read the descriptions that come with the package, by name."""
    folder = Path(str(files("qamro_cache_data")))
    read = [read_description(path) for path in sorted(folder.glob("*.toml"))]
    return {description.name: description for description in read}


def list_datasets() -> dict[str, str]:
    """Every name that ``load_dataset`` knows, with a line about it."""
    found = {"demo": "synthetic clips and simulated raters, made on the spot"}
    found |= {name: description.title for name, description in descriptions().items()}
    for point in entry_points(group=ENTRY_POINTS):
        found.setdefault(point.name, f"from {point.value.partition(':')[0]}")
    return found


def group_kind(name: str) -> str:
    """Return what a group of a set that is described here is, in a word; empty for another set."""
    return descriptions()[name].group_kind if name in descriptions() else ""


def defaults_chosen_on(*names: str) -> list[str]:
    """Return those of some sets, merged ones too, that a default of the training was chosen on."""
    parts = {part for name in names for part in name.split("+")}
    return [name for name in _CHOSEN_ON if name in parts]


def load_dataset(name: PathLike, data_dir: PathLike | None = None) -> Dataset:
    """Load a rated set.

    Args:
        name: one of ``list_datasets()``, or the path of a description (``.toml``) or a manifest
            of your own; a manifest that does not end in ``.csv`` is given as a ``Path``.
        data_dir: the folder of the release; None: for ``demo``, a folder in the user's cache (it is
            made there), for a description or a manifest of your own, the folder that it is in.

    Raises:
        OptionError: an unknown name.
        QamroError: no folder, or a release that is not as described.
    """
    path = as_path(name, "a data set")
    data_dir = None if data_dir is None else as_path(data_dir, "a folder")
    if path.suffix == ".toml":
        return load_described(read_description(path), data_dir or path.parent)
    if not isinstance(name, str) or path.suffix == ".csv":
        return load_manifest(path, data_dir)
    if name == "demo":
        return load_demo(data_dir)
    if name in descriptions():
        description = descriptions()[name]
        if data_dir is None:
            raise QamroError(
                f"{name} needs --data-dir, the folder where it lies "
                f"(get it from {description.source})"
            )
        return load_described(description, data_dir)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            try:
                load: Loader = point.load()
            except ImportError as error:
                raise QamroError(
                    f"dataset {name!r} is in {point.value}, which cannot be imported "
                    f"({words_of(error)}); install or mend that package"
                ) from None
            return load(data_dir)
    known = tuple(list_datasets())
    raise OptionError(
        f"no dataset {name!r}; there are: {', '.join(known)}; "
        f"or list your own clips with --manifest{nearest(name, known)}"
    )
