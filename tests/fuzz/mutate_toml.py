"""TOML from records, with what a person may get wrong in a value or in the text."""

import json
import random
from copy import deepcopy
from typing import Any

from fuzz.mutate import mutate_bytes, mutate_json, places


class _Raw(str):
    """Text that stands in the file as it is."""


#: Values that TOML can write and JSON cannot, and texts that are no TOML.
_RAW = (
    "inf", "-nan", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "0x" + "f" * 6000, "0b1",
    "1_0", "9" * 5000, "1e999", "-9223372036854775809", "'''a\nb'''", '"\\u001b[2J"',
    '"\\uD800"', "[" * 600, "[" * 50 + "]" * 50, "{" + "a." * 300 + "c=1}", "=", "", "[x]",
    "[1, 'a', []]",
)  # fmt: skip


def hostile_toml(record: dict[str, Any], choose: random.Random) -> bytes:
    """Return a TOML file of a record in which something is wrong."""
    record = deepcopy(record)
    if choose.random() < 0.85:
        record = mutate_json(record, choose, 3)
    if choose.random() < 0.3 and record:
        holder, key = choose.choice(list(places(record)))
        holder[key] = _Raw(choose.choice(_RAW))
    lines = [f"{json.dumps(key)} = {_value(value)}\n" for key, value in record.items()]
    if choose.random() < 0.03:
        lines.append(choose.choice(lines or ["\n"]))
    if choose.random() < 0.1:
        choose.shuffle(lines)
    data = "".join(lines).encode("utf-8", "surrogatepass")
    return mutate_bytes(data, choose) if choose.random() < 0.15 else data


def _value(value: Any) -> str:
    if isinstance(value, _Raw):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return "" if value is None else json.dumps(value, ensure_ascii=isinstance(value, str))
