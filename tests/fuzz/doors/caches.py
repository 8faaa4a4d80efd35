"""A stranger's cache, through every command that reads one.

Half of the cases are damaged bytes: what is accepted must be the good file's content to the last
figure. The others are forged with right checksums: nothing is known of what they ought to say, so
they may be taken; they must not crash, hang or flood.
"""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from forgery import forged_cache, set_attribute
from qamro_cache_cli.ablate import main as ablate_command
from qamro_cache_cli.cache import main as cache_command
from qamro_cache_cli.evaluate import main as evaluate_command
from qamro_cache_cli.predict import main as predict_command
from qamro_cache_cli.train import main as train_command
from synthetic_cache import write_synthetic

from fuzz.commands import files_of, run
from fuzz.harness import Door
from fuzz.mutate import ODD, mutate_bytes, mutate_json

#: How often each command is tried.
ACTIONS = {
    "info": 30, "verify": 20, "merge": 15, "relabel": 10, "export": 10, "predict": 10,
    "evaluate": 4, "train": 1, "ablate": 1,
}  # fmt: skip


class Good(NamedTuple):
    raw: bytes
    folder: Path
    results: dict[str, Any]


def prepare(folder: Path) -> None:
    write_synthetic(folder / "emb.h5", clips=24)
    train = ["--cache", folder / "emb.h5", "--cv", "2", "--seeds", "1", "--epochs", "1"]
    assert run(train_command, *train, "--axis", "quality", "--out", folder / "run")[0] == 0
    rows = "".join(f"clip{k:03d},{k % 5}\n" for k in range(24))
    (folder / "labels.csv").write_text(f"clip_id,loudness\n{rows}")


def load(folder: Path) -> Good:
    good = Good((folder / "emb.h5").read_bytes(), folder, {})
    place = folder / "try"
    for action in ACTIONS:
        place.mkdir()
        (place / "x.h5").write_bytes(good.raw)
        code, good.results[action] = act(action, good, place)
        assert code == 0, action
        for path in sorted(place.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        place.rmdir()
    return good


def act(action: str, good: Good, place: Path) -> tuple[int, Any]:
    """Run a command on ``x.h5`` in a folder; return its exit code and all that it made."""
    cache, out = place / "x.h5", place / "out"
    head, predictions = good.folder / "run/head.safetensors", good.folder / "run/predictions.csv"
    labels = good.folder / "labels.csv"
    command, arguments = {
        "info": (cache_command, ["info", "--json", cache]),
        "verify": (cache_command, ["verify", cache]),
        "merge": (cache_command, ["merge", cache, "--out", out]),
        "relabel": (cache_command, ["relabel", cache, "--labels", labels, "--out", out]),
        "export": (cache_command, ["export", cache, "--out", out]),
        "predict": (predict_command, ["--head", head, "--cache", cache, "--out", out]),
        "evaluate": (
            evaluate_command,
            ["--predictions", predictions, "--labels", cache, "--json", "--resamples", 10],
        ),
        "train": (
            train_command,
            ["--cache", cache, "--cv", 2, "--seeds", 1, "--epochs", 1, "--out", out],
        ),
        "ablate": (
            ablate_command,
            ["--cache", cache, "--alpha", "0.1,0.5", "--cv", 2, "--seeds", 1, "--epochs", 1,
             "--axis", "quality", "--resamples", 10, "--out", out],
        ),
    }[action]  # fmt: skip
    code, text = run(command, *arguments)
    made = {} if not out.exists() else files_of(out) if out.is_dir() else {"": out.read_bytes()}
    made.pop("config.json", None)  # times and places
    if "head.safetensors" in made:
        made["head.safetensors"] = made["head.safetensors"][-2000:]
    return code, (text.replace(str(place), ""), made)


def case(good: Good, choose: random.Random, place: Path) -> str:
    action = choose.choices(list(ACTIONS), list(ACTIONS.values()))[0]
    forged = choose.random() < 0.5
    data = forge(good.raw, choose) if forged else mutate_bytes(good.raw, choose, 9000)
    (place / "x.h5").write_bytes(data)
    code, result = act(action, good, place)
    left = [p.name for p in place.iterdir() if p.name.startswith(".")]
    assert not left, f"{action} left {left}"
    if code:
        # A grid that was stopped keeps what is done.
        assert action == "ablate" or not (place / "out").exists(), f"{action} left its output"
        return "refused"
    if forged:
        return "taken"
    if action == "verify" and len(data) == len(good.raw):
        assert data == good.raw, "verify calls damaged bytes good"
    # info and evaluate read no feature, so a damaged one does not show.
    assert repr(result) == repr(good.results[action]), f"{action} takes something else"
    return "same"


def forge(raw: bytes, choose: random.Random) -> bytes:
    # Values alone, which fit more often, or anything.
    kinds = choose.choice(((3,), (0, 1, 2, 3)))

    def change(index: Any, data: bytearray) -> None:
        for _ in range(choose.randint(1, 3)):
            kind = choose.choice(kinds)
            if kind == 0:
                mutate_json(index, choose)
            elif kind == 1:
                name = choose.choice(("identity", "provenance", "licenses"))
                set_attribute(index, name, lambda record: mutate_json(record, choose))
            elif kind == 2:
                entry = choose.choice(list(index["arrays"].values()))
                entry[choose.randrange(3)] = choose.choice(
                    (*ODD, "<f4", "<i8", "|u1", "|S1", "|S65536", [0], [24], [10**12], [1, 24])
                )
            else:
                _, entry = choose.choice(list(index["arrays"].items()))
                dtype, shape, start, _ = entry
                size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
                if size:
                    place = start + choose.randrange(size)
                    values = (b"\xff" * 8, b"\0" * 8, b"\x7f\xf0", b"\0\0\xc0\x7f", b"\x1b[31m")
                    value = choose.choice((*values, choose.randbytes(4)))[: start + size - place]
                    data[place : place + len(value)] = value

    def changed(index: Any, data: bytearray) -> None:
        try:
            change(index, data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError,
                SyntaxError):  # fmt: skip
            return  # one change made the next one impossible; the first ones are a case too

    try:
        return forged_cache(raw, changed)
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError):
        return json.dumps(ODD[:10]).encode()


DOOR = Door("caches", prepare, load, case)
