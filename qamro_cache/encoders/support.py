"""Small things that several encoders need: what is installed, hashes."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path


def install_line(extra: str) -> str:
    """Return the command that installs what an extra of ours asks for.

    It names the packages: ``qamro-cache[extra]`` would find neither a clone nor a wheel on disk.
    """
    try:
        asked = requires("qamro-cache") or []
    except PackageNotFoundError:
        return f"install the packages of the extra {extra} (setup.cfg)"
    names = [line.partition(";")[0].strip() for line in asked if f'extra == "{extra}"' in line]
    return "run: pip install " + " ".join(f"'{name}'" for name in dict.fromkeys(names))


def missing_packages(modules: Iterable[str], extra: str) -> list[str]:
    """Return a line a module that is not installed, with the command that installs it."""
    return [
        f"package {module} is not installed; {install_line(extra)}"
        for module in modules
        if find_spec(module) is None
    ]


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
