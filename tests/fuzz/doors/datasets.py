"""A description of a data set, through ``qamro-extract --dry-run``."""

import random
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from qamro_cache_cli.extract import main as extract_command

from fuzz.commands import run
from fuzz.harness import Door
from fuzz.mutate import mutate_bytes, mutate_json, toml_of

DESCRIPTION = b"""
name = "mine"
title = "SYNTHETIC: two systems"
license = "none"
source = "a program"
audio = ["wav/{clip_id}.wav"]
group_kind = "sentence"

[[axes]]
name = "quality"
low = 1
high = 5

[[clips]]
path = ["scores.csv"]
format = "csv"
scores = {quality = "mos"}
fields = {clip_id = "{name}", system = "{system}", group = "{group}"}
extract = [{source = "{name}", pattern = '^(?P<system>[^-]+)-(?P<group>.+)$'}]
"""


class Good(NamedTuple):
    folder: Path
    descriptions: list[bytes]


def prepare(folder: Path) -> None:
    import numpy as np
    import soundfile

    (folder / "wav").mkdir()
    rows = ["name,mos"]
    for number in range(4):
        name = f"{'ab'[number % 2]}-{number // 2}"
        noise = 0.1 * np.random.default_rng(number).standard_normal(8000)
        soundfile.write(folder / "wav" / f"{name}.wav", noise, 16000)
        rows.append(f"{name},{number + 1}")
    (folder / "scores.csv").write_text("\n".join(rows) + "\n")


def load(folder: Path) -> Good:
    shipped = sorted(Path(str(files("qamro_cache_data"))).glob("*.toml"))
    return Good(folder, [*[DESCRIPTION] * 20, *(path.read_bytes() for path in shipped)])


def case(good: Good, choose: random.Random, place: Path) -> str:
    raw = choose.choice(good.descriptions)
    if choose.random() < 0.7:
        record: Any = mutate_json(tomllib.loads(raw.decode()), choose, 3)
        raw = toml_of(record)
    else:
        raw = mutate_bytes(raw, choose)
    path = place / "set.toml"
    path.write_bytes(raw)
    arguments = ["--dataset", path, "--data-dir", good.folder, "--dry-run"]
    return "refused" if run(extract_command, *arguments)[0] else "taken"


DOOR = Door("datasets", prepare, load, case)
