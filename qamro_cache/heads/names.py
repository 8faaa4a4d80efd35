"""Heads by name: the examples that come with the package, and where a named head lies."""

from importlib.resources import files
from pathlib import Path

from qamro_cache.errors import QamroError, nearest
from qamro_cache.paths import PathLike, as_path

#: In the folder of a run.
HEAD_FILE = "head.safetensors"


def list_heads() -> list[str]:
    """Return the names of the heads that come with the package, as ``--head`` takes them.

    They are examples; ``qamro-head info NAME`` says what one is of and how good it was found.
    """
    return sorted(path.stem for path in _folder().glob("*.safetensors"))


def comes_along(path: Path) -> bool:
    """Whether a file is a head that comes with the package, which nobody is to overwrite."""
    return path.resolve().parent == _folder().resolve()


def head_path(named: PathLike) -> Path:
    """Return the file of a head.

    Args:
        named: the file, the folder of a qamro-train run, or, where there is neither, a name of
            `list_heads`.

    Raises:
        QamroError: there is none.
    """
    path = as_path(named, "a head")
    if path.is_dir():
        path = path / HEAD_FILE
    if path.is_file():
        return path
    known = list_heads()
    if str(path) in known:
        return _folder() / f"{path}.safetensors"
    more = f"; by name there are: {', '.join(known)}{nearest(path, known)}" if known else ""
    if len(path.parts) == 2 and not path.suffix and not path.is_absolute():
        more = f"; qamro-head pull {path} fetches that of a repository of the hub"
    raise QamroError(f"{path}: no such head file; qamro-train writes one as {HEAD_FILE}{more}")


def _folder() -> Path:
    return Path(str(files("qamro_cache_data"))) / "heads"
