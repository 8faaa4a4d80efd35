"""A grid file, through what `ablate` checks before it trains."""

import random
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from synthetic_cache import write_synthetic

from fuzz.commands import one_line
from fuzz.harness import Door
from fuzz.mutate import mutate_bytes, mutate_json, toml_of
from qamro_cache.cache.reader import Cache, open_cache
from qamro_cache.errors import QamroError
from qamro_cache.experiments.grid import shipped_grids
from qamro_cache.experiments.request import ablate_request


class Good(NamedTuple):
    cache: Cache
    grids: list[bytes]


def prepare(folder: Path) -> None:
    write_synthetic(folder / "emb.h5", clips=24)


def load(folder: Path) -> Good:
    grids = [path.read_bytes() for path in shipped_grids().values()]
    return Good(open_cache(folder / "emb.h5"), grids)


def case(good: Good, choose: random.Random, place: Path) -> str:
    raw = choose.choice(good.grids)
    if choose.random() < 0.6:
        record: Any = mutate_json(tomllib.loads(raw.decode()), choose, 3)
        raw = toml_of(record)
    else:
        raw = mutate_bytes(raw, choose)
    path = place / "grid.toml"
    path.write_bytes(raw)
    try:
        ablate_request(good.cache, place / "run", path, {})
    except QamroError as error:
        one_line(str(error))
        return "refused"
    return "taken"


DOOR = Door("grids", prepare, load, case)
