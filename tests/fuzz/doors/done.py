"""Kept stacks of a grid, in its ``done/`` folder: damaged, or sealed again as a forger would.

Whatever lies there, the same command ends in the same tables to the last bit: what is not whole is
trained again, with one notice a file. A sealed stack may say other figures (nothing tells them from
a result), but it must not crash, hang or flood.
"""

import hashlib
import logging
import random
from pathlib import Path
from typing import NamedTuple

from qamro_cache_cli.ablate import main as ablate_command
from synthetic_cache import write_synthetic

from fuzz.commands import files_of, run
from fuzz.harness import Door
from fuzz.mutate import mutate_bytes

_GRID = (
    "--axis", "match", "--cv", 2, "--seeds", 1, "--epochs", 1, "--widths", 4, "--resamples", 0,
    "--batch-size", "8,16", "--json",
)  # fmt: skip


class Good(NamedTuple):
    folder: Path
    stacks: dict[str, bytes]
    tables: dict[str, bytes]


def prepare(folder: Path) -> None:
    write_synthetic(folder / "emb.h5", clips=24)
    assert ablate(folder, folder / "grid")[0] == 0


def load(folder: Path) -> Good:
    return Good(folder, files_of(folder / "grid/done"), tables_of(folder / "grid"))


def ablate(good: Path, out: Path) -> tuple[int, str]:
    return run(ablate_command, "--cache", good / "emb.h5", "--out", out, *_GRID)


def tables_of(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(out).items() if not name.startswith("done/")}


def case(good: Good, choose: random.Random, place: Path) -> str:
    done = place / "grid/done"
    done.mkdir(parents=True)
    for name, data in good.stacks.items():
        (done / name).write_bytes(data)
    name = choose.choice(sorted(good.stacks))
    sealed = choose.random() < 0.4
    hostile = seal(good.stacks[name], choose) if sealed else damage(good, name, choose)
    (done / name).unlink()
    if hostile is None:
        odd_entry(done / name, choose)
    else:
        (done / choose.choice((name, name, f"0{name}", f"z{name}"))).write_bytes(hostile)
    notices: list[str] = []
    heed = lambda record: notices.append(record.getMessage()) or True  # noqa: E731
    logger = logging.getLogger("qamro_cache")
    logger.addFilter(heed)
    try:
        code, _ = ablate(good.folder, place / "grid")
    finally:
        logger.removeFilter(heed)
    damaged = [notice for notice in notices if "cannot be read" in notice]
    assert code == 0, "the grid is refused"
    assert len(damaged) <= 1, damaged
    if sealed:
        return "taken"
    assert tables_of(place / "grid") == good.tables, "other tables"
    return "refused" if damaged else "same"


def damage(good: Good, name: str, choose: random.Random) -> bytes | None:
    kind = choose.randrange(8)
    if kind == 0:
        return choose.choice(list(good.tables.values()))  # another kind of file
    if kind == 1:
        return None
    if kind == 2:
        first, rest = good.stacks[name].split(b"\n", 1)
        words = first.split(b" ")
        words[choose.randrange(len(words))] = choose.choice(
            (b"", b"0", b"-1", b"999999999", b"9" * 5000, b"1e9", "٣".encode(), b"0" * 64, b"\0")
        )
        return b" ".join(words) + b"\n" + rest
    return mutate_bytes(good.stacks[name], choose, 300)


def odd_entry(path: Path, choose: random.Random) -> None:
    """Put what is no file in a stack's place, or a file of 10 GB that takes no room."""
    kind = choose.randrange(4)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to("nowhere")
    elif kind == 2:
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.write(b"qamro-stack 1 20000000 112 " + b"0" * 64 + b"\n")
            file.truncate(10 << 30)


def seal(raw: bytes, choose: random.Random) -> bytes:
    """Change counts, keys or figures, and make the checksum right again."""
    first, rest = raw.split(b"\n", 1)
    words = first.split(b" ")
    heads, clips = words[2], words[3]
    if choose.random() < 0.4:
        heads = choose.choice((heads, b"0", b"1", b"999999999", b"000000004"))
        clips = choose.choice((clips, b"0", b"1", b"999999999", b"24"))
    if choose.random() < 0.7:
        rest = mutate_bytes(rest, choose)
    digest = hashlib.sha256(heads + b" " + clips + rest).hexdigest().encode()
    return b" ".join((*words[:2], heads, clips, digest)) + b"\n" + rest


DOOR = Door("done", prepare, load, case)
