"""A stranger's head file, through `load_head` and `qamro-predict`."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from forgery import canonical, digest_of_head, head_parts
from qamro_cache_cli.predict import main as predict_command
from qamro_cache_cli.train import main as train_command
from synthetic_cache import write_synthetic

from fuzz.commands import run
from fuzz.harness import Door
from fuzz.mutate import ODD, mutate_bytes, mutate_json


class Good(NamedTuple):
    raw: bytes
    folder: Path
    table: bytes


def prepare(folder: Path) -> None:
    write_synthetic(folder / "emb.h5", clips=24)
    train = ["--cache", folder / "emb.h5", "--cv", "2", "--seeds", "2", "--epochs", "1"]
    assert run(train_command, *train, "--widths", "4", "--out", folder / "run")[0] == 0


def load(folder: Path) -> Good:
    path = folder / "run/head.safetensors"
    out = folder / "again.csv"
    assert run(predict_command, "--head", path, "--cache", folder / "emb.h5", "--out", out)[0] == 0
    return Good(path.read_bytes(), folder, out.read_bytes())


def case(
    good: Good,
    choose: random.Random,
    place: Path,
    forge: Callable[[bytes, random.Random], bytes] | None = None,
) -> str:
    forge = forge or forge_head
    forged = choose.random() < 0.6
    header = 8 + struct.unpack("<Q", good.raw[:8])[0]
    data = forge(good.raw, choose) if forged else mutate_bytes(good.raw, choose, header)
    (place / "x.safetensors").write_bytes(data)
    out = place / "table.csv"
    head = ["--head", place / "x.safetensors", "--cache", good.folder / "emb.h5"]
    code, _ = run(predict_command, *head, "--out", out)
    if code:
        assert not out.exists(), "predict failed and left its output"
        return "refused"
    if forged:
        return "taken"
    assert out.read_bytes() == good.table, "a damaged head predicts something else"
    return "same"


def forge_head(raw: bytes, choose: random.Random) -> bytes:
    """Change header, record or tensors, and make the checksum right again where it can be."""
    header, data = head_parts(raw)
    metadata = header["__metadata__"]
    record = json.loads(metadata["record"])
    tensors = [name for name in header if name != "__metadata__"]
    kind = choose.randrange(5)
    if kind == 0:
        record = mutate_json(record, choose)
    elif kind == 1:
        entry = header[choose.choice(tensors)]
        key = choose.choice(("dtype", "shape", "data_offsets"))
        types = ("F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "BOOL", "U8")
        entry[key] = choose.choice((*ODD, *types, [0], [2**40], [0, 0], [0, 10**12]))
    elif kind == 2:
        name = choose.choice(tensors)
        start, end = header[name]["data_offsets"]
        size = max(1, min(4, end - start))
        value = choose.choice((b"\xff" * 4, b"\0\0\x80\x7f", b"\0" * 4, choose.randbytes(4)))
        data[start : start + size] = value[:size]
    elif kind == 3:
        mutate_json(header, choose)
    else:
        record[choose.choice(list(record))] = choose.choice(ODD)
    if choose.random() < 0.1:
        record = None
    return sealed(header, record, data)


def sealed(header: Any, record: Any, data: bytearray) -> bytes:
    """Return a file of these parts, its checksum right where it can be; None: the old record."""
    metadata = header.get("__metadata__", {})
    try:
        if record is not None:
            metadata["record"] = canonical(record).decode()
        metadata["sha256"] = digest_of_head(header, metadata["record"], data)
        text = json.dumps(header).encode("utf-8", "surrogatepass")
    except (KeyError, TypeError, ValueError, AttributeError):
        text = json.dumps(header, default=str).encode("utf-8", "replace")
    return struct.pack("<Q", len(text)) + text + bytes(data)


DOOR = Door("heads", prepare, load, case)
