"""TOML files from people: read, and made into frozen dataclasses with every value checked."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from qamro_cache.errors import QamroError, nearest, quoted

Record = TypeVar("Record")

#: A longer file is not one that a person wrote.
LARGEST = 1 << 20

_KINDS: dict[Any, tuple[Any, str]] = {
    str: (str, "text in quotes"),
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    tuple: (list, "a list [...]"),
    Mapping: (dict, "a table {...}"),
}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        QamroError: one line with the file and what is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise QamroError(f"{path}: is larger than 1 MB; name a TOML file that a person wrote")
        record = tomllib.loads(content.decode("utf-8"))
        _refuse_long_numbers(record)
        return record
    except OSError as error:
        raise QamroError(f"{path}: cannot be read ({error.strerror}); name a TOML file") from None
    except RecursionError:
        raise QamroError(f"{path}: lists or tables are nested too deep; mend it") from None
    except ValueError as error:  # not UTF-8, not TOML, a number of too many digits
        raise QamroError(f"{path}: not a TOML file: {error}; mend it there") from None


def from_toml(kind: type[Record], entry: Any, where: str) -> Record:
    """Make a dataclass of a TOML table, and of the tables in it those of their fields' types.

    Lists become tuples; text alone will do for a list of one text.

    Raises:
        QamroError: an unknown or missing key, or a value of another kind than its field.
    """
    if not isinstance(entry, dict):
        raise QamroError(f"{where}: is {quoted(entry)}; write a table there")
    known: dict[str, Field[Any]] = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for name in entry:
        if name not in known:
            hint = nearest(name, list(known)) or f"; known: {', '.join(known)}"
            raise QamroError(f"{where}: unknown key {quoted(name)}{hint}")
    hints = get_type_hints(kind)
    made = {k: _value(hints[k], v, f"{where}: {k}") for k, v in entry.items()}
    for name, item in known.items():
        if name not in entry and item.default is MISSING and item.default_factory is MISSING:
            raise QamroError(f"{where}: no {name!r}; add it")
    return kind(**made)


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return a value in its field's type."""
    if isinstance(hint, UnionType):  # absent, or there
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if is_dataclass(hint):
        return from_toml(hint, value, where)  # type: ignore[arg-type]
    plain, inner = get_origin(hint) or hint, get_args(hint)
    if plain is tuple and inner[0] is str and isinstance(value, str):
        value = [value]
    wanted, words = _KINDS[plain]
    if not isinstance(value, wanted) or (isinstance(value, bool) and plain is not bool):
        raise QamroError(f"{where} is {quoted(value)}; write {words} there")
    if plain is tuple:
        return tuple(_value(inner[0], item, where) for item in value)
    if plain is Mapping:
        return {k: _value(inner[1], item, f"{where}.{k}") for k, item in value.items()}
    return plain(value)


def _refuse_long_numbers(value: Any) -> None:
    """Refuse whole numbers beyond TOML's 64 bits, which no float and no message could hold."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError("a whole number has more than 64 bits")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_long_numbers(item)
