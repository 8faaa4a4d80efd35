"""A grid's kept results, damaged or forged in its folder ``done/``, through `qamro-ablate`."""

import hashlib
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any, NamedTuple

from forgery import head_parts
from qamro_cache_cli.ablate import main as ablate_command
from qamro_cache_cli.cache import main as cache_command
from synthetic_cache import write_synthetic

from fuzz.commands import files_of, run
from fuzz.harness import Door
from fuzz.mutate import ODD, mutate_bytes, mutate_json
from qamro_cache.experiments.store import read_stacks

_TENSORS = ("predictions", "best_epoch", "diverged", "stability")
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "BOOL": "bool"}


class Good(NamedTuple):
    folder: Path
    tables: dict[str, bytes]
    clips: int


def prepare(folder: Path) -> None:
    write_synthetic(folder / "rated.h5", clips=24)
    # Means alone: what is computed of single ratings is no part of this door, and takes long.
    rows = "".join(f"clip{k:03d},{k % 7}\n" for k in range(24))
    (folder / "labels.csv").write_text(f"clip_id,quality\n{rows}")
    relabel = ["--labels", folder / "labels.csv", "--out", folder / "emb.h5"]
    assert run(cache_command, "relabel", folder / "rated.h5", *relabel)[0] == 0
    assert _ablate(folder, folder / "grid") == 0


def load(folder: Path) -> Good:
    kept = next((folder / "grid/done").glob("*.safetensors"))
    clips = head_parts(kept.read_bytes())[0]["predictions"]["shape"][1]
    return Good(folder, _tables(folder / "grid"), clips)


def case(good: Good, choose: random.Random, place: Path) -> str:
    shutil.copytree(good.folder / "grid", place / "grid")
    kept = choose.choice(sorted((place / "grid/done").glob("*.safetensors")))
    kind = choose.random()
    if kind < 0.05:
        _clutter(kept, choose)
    elif kind < 0.4:
        raw = kept.read_bytes()
        kept.write_bytes(mutate_bytes(raw, choose, 8 + struct.unpack("<Q", raw[:8])[0]))
    else:
        kept.write_bytes(forge(kept.read_bytes(), choose))
    # What is not read is trained again, which need not be seen every time.
    if not read_stacks(place / "grid/done", good.clips) and choose.random() < 0.8:
        return "refused"
    before = kept.read_bytes() if kept.exists() else b""
    if _ablate(good.folder, place / "grid"):
        return "refused"
    # What was damaged is trained again; what a forger made right is what the tables say.
    same = _tables(place / "grid") == good.tables
    assert same or kind >= 0.4, "damaged results have changed a table"
    if kept.read_bytes() != before:
        return "refused"
    return "same" if same else "taken"


def forge(raw: bytes, choose: random.Random) -> bytes:
    """Change names, types, shapes or numbers, and make the checksum right again where it can be."""
    header, data = head_parts(raw)
    metadata = header["__metadata__"]
    keys = json.loads(metadata["keys"])
    entry = header[choose.choice(_TENSORS)]
    kind = choose.randrange(6)
    if kind == 0:
        keys = mutate_json(keys, choose)
    elif kind == 1:
        odd = choose.choice((*ODD, *_TYPES, [0], [2**40], [0, 0], [0, 10**12]))
        entry[choose.choice(("dtype", "shape", "data_offsets"))] = odd
    elif kind == 2:
        start, end = entry["data_offsets"]
        place = choose.randrange(start, max(end, start + 1))
        odd_bytes = choose.choice((b"\xff" * 8, b"\0\0\x80\x7f", b"\0" * 8, choose.randbytes(8)))
        data[place : min(end, place + 8)] = odd_bytes[: max(0, min(end, place + 8) - place)]
    elif kind == 3:
        mutate_json(header, choose)
    elif kind == 4:
        # Fewer or more heads than there are keys.
        keys = keys[: choose.randrange(len(keys))] if choose.random() < 0.5 else [*keys, keys[0]]
    else:
        _other_type(entry, choose)
    try:
        metadata["keys"] = json.dumps(keys)
        metadata["sha256"] = _digest(header, metadata["keys"], bytes(data))
    except (KeyError, TypeError, ValueError, AttributeError):
        pass  # what was forged has no such checksum
    text = json.dumps(header, default=str).encode("utf-8", "replace")
    return struct.pack("<Q", len(text)) + text + bytes(data)


def _other_type(entry: dict[str, Any], choose: random.Random) -> None:
    """Declare another type, of as many bytes."""
    size = {"F64": 8, "I64": 8, "F32": 4, "BOOL": 1}[entry["dtype"]]
    others = {8: ("F64", "I64", "U64"), 4: ("F32", "I32"), 1: ("BOOL", "I8", "U8")}[size]
    entry["dtype"] = choose.choice(others)


def _digest(header: dict[str, Any], keys: str, data: bytes) -> str:
    digest = hashlib.sha256(keys.encode())
    for name in sorted(_TENSORS):
        entry = header[name]
        start, end = entry["data_offsets"]
        dtype = _TYPES.get(entry["dtype"], entry["dtype"])
        digest.update(f"{name} torch.{dtype} {list(entry['shape'])}".encode() + data[start:end])
    return digest.hexdigest()


def _clutter(kept: Path, choose: random.Random) -> None:
    """Put something else beside a file or in its place."""
    other = kept.with_name("other.safetensors")
    act = choose.randrange(5)
    if act == 0:
        other.mkdir()
    elif act == 1:
        other.symlink_to("nowhere")
    elif act == 2:
        shutil.copy(kept, other)
    elif act == 3:
        kept.unlink()
    else:
        other.write_bytes(b"")


def _ablate(folder: Path, out: Path) -> int:
    options = (
        "--cv 2 --seeds 2 --epochs 1 --widths 4 --axis quality --alpha 0.2,0.5 --resamples 0 --json"
    )
    return run(ablate_command, "--cache", folder / "emb.h5", *options.split(), "--out", out)[0]


def _tables(folder: Path) -> dict[str, bytes]:
    return {name: raw for name, raw in files_of(folder).items() if not name.startswith("done/")}


DOOR = Door("done", prepare, load, case)
