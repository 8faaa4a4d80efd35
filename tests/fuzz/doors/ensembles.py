"""A stranger's ensemble with a calibration, through `load_head` and `qamro-predict`."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from forgery import head_parts

from fuzz.doors import heads
from fuzz.harness import Door
from fuzz.mutate import ODD, mutate_json


def prepare(folder: Path) -> None:
    from qamro_cache.heads.calibration import Calibration
    from qamro_cache.heads.file import load_head, save_head
    from qamro_cache.heads.head import Ensemble, Head

    heads.prepare(folder)
    # Twice: no two tensors of a file are one in memory.
    head, again = load_head(folder / "run"), load_head(folder / "run")
    assert isinstance(head, Head)
    assert isinstance(again, Head)
    alone = tuple(replace(one, trained=None) for one in (head, again))
    axes = tuple(one.axis for one in head.axes)
    numbers = (0.5, 0.4, 0.6, 1.0, 0.5, 1.5)
    steps: list[Any] = [None, ((0.0, 2.0, 60.0), (1.0, 2.0, 5.0))]
    marks = {
        axis.name: Calibration(axis, 20, *numbers, one).record()
        for axis, one in zip(axes, steps, strict=False)
    }
    times = ((1,) * len(axes), (3,) * len(axes))
    made = Ensemble(alone, times, axes, head.training, head.trained, calibration=marks)
    save_head(folder / "run/head.safetensors", made)


def case(good: heads.Good, choose: random.Random, place: Path) -> str:
    return heads.case(good, choose, place, forge)


def forge(raw: bytes, choose: random.Random) -> bytes:
    """Change what an ensemble has beside its heads, or a member; else as of any head."""
    if choose.random() < 0.4:
        return heads.forge_head(raw, choose)
    header, data = head_parts(raw)
    record = json.loads(header["__metadata__"]["record"])
    part = choose.choice(("members", "times", "axes", "calibration", "training"))
    kind = choose.randrange(4)
    if kind == 0:
        record[part] = mutate_json(record[part], choose)
    elif kind == 1:
        record[part] = choose.choice((*ODD, {}, [], [record], {"quality": {}}, [[1]], [[0], [1]]))
    elif kind == 2:
        _inside(record[part], choose)
    elif isinstance(record[part], list):
        several = record[part]
        record[part] = choose.choice((several[:1], several * 2, several[::-1], several * 1001))
    return heads.sealed(header, record, data)


def _inside(value: Any, choose: random.Random) -> None:
    """Change one value, however deep it lies."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = choose.choice(keys)
    if isinstance(value[key], dict | list) and value[key] and choose.random() < 0.8:
        _inside(value[key], choose)
    elif choose.random() < 0.2 and isinstance(value, dict):
        del value[key]
    else:
        value[key] = choose.choice((*ODD, 0, -1, 1.5, 10**9, "quality"))


DOOR = Door("ensembles", prepare, heads.load, case)
