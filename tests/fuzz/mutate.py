"""Mutations of bytes and of JSON that several doors share."""

import json
import random
from copy import deepcopy
from typing import Any

#: Values that programs stumble over.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 1e308, -0.0, 0.5, 2**31, 2**63, 2**64, 10**30, "", "x", "é",
    "\x00", "\x1b[31m", "\udc80", "[/x]", "a" * 300, "NaN", [], [[]], [0], ["x"], {}, {"a": 1},
)  # fmt: skip


def mutate_bytes(data: bytes, choose: random.Random, reach: int = 0) -> bytes:
    """Damage some bytes: flips, noise, a cut, an insertion, a copy, a run of one value.

    Args:
        data: of a good file.
        choose: of the case.
        reach: where most damage falls, from the start; 0 for anywhere.
    """
    out = bytearray(data)
    end = min(len(out), reach) if reach and choose.random() < 0.7 else len(out)
    place = choose.randrange(max(1, end))
    kind = choose.randrange(8)
    if kind == 0 and out:
        out[min(place, len(out) - 1)] ^= 1 << choose.randrange(8)
    elif kind == 1:
        for _ in range(choose.randint(1, 20)):
            out[choose.randrange(end)] = choose.randrange(256)
    elif kind == 2:
        del out[choose.randrange(len(out)) :]
    elif kind == 3:
        out[place:place] = choose.randbytes(choose.randint(1, 64))
    elif kind == 4:
        del out[place : place + choose.randint(1, 64)]
    elif kind == 5:
        source, size = choose.randrange(len(out)), choose.randint(1, 256)
        out[place : place + size] = out[source : source + size]
    elif kind == 6:
        size = choose.randint(1, 64)
        out[place : place + size] = bytes([choose.choice((0, 1, 127, 255))]) * size
    else:
        out += choose.randbytes(choose.randint(1, 600))
    return bytes(out)


def mutate_json(record: Any, choose: random.Random, changes: int = 2) -> Any:
    """Change some values of a record in place, wherever they stand, and return it."""
    for _ in range(choose.randint(1, changes)):
        places = list(_places(record))
        if not places:
            return choose.choice(ODD)
        holder, key = choose.choice(places)
        kind = choose.randrange(5)
        if kind == 0 and isinstance(holder, dict):
            holder[choose.choice(("more", "", "x" * 200, "\n", "a/b"))] = holder.pop(key)
        elif kind == 1:
            del holder[key]
        elif kind == 2:
            other, name = choose.choice(places)
            holder[key] = deepcopy(other[name]) if name in _keys(other) else choose.choice(ODD)
        elif kind == 3 and isinstance(holder[key], int | float):
            holder[key] = choose.choice((holder[key] + 1, -holder[key], holder[key] * 10**9))
        else:
            holder[key] = deepcopy(choose.choice(ODD))
    return record


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _places(record: Any, depth: int = 8) -> Any:
    if isinstance(record, dict | list) and depth:
        for key in list(_keys(record)):
            yield record, key
            yield from _places(record[key], depth - 1)


def toml_of(record: Any) -> bytes:
    """Return a table as TOML; it has no null, so nothing stands there and the file is wrong.

    What `mutate_json` left no table of stands alone, which is no TOML either.
    """
    if not isinstance(record, dict):
        return _toml_value(record).encode("utf-8", "surrogateescape")
    lines = (f"{json.dumps(str(key))} = {_toml_value(value)}" for key, value in record.items())
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{json.dumps(str(key))} = {_toml_value(one)}" for key, one in value.items())
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return "" if value is None else json.dumps(value)
