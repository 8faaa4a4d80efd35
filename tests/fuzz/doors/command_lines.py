"""Command lines at random, of all six commands: right ones in which something is replaced or added.

Every command runs in a folder that holds all its inputs. What is long because it was asked to be
long (epochs, seeds) stays short; everything else may be asked for.
"""

import contextlib
import os
import random
import shutil
from pathlib import Path
from typing import Any

import click
from audio_files import encoded, noise
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate_command
from qamro_cache_cli.cache import main as cache_command
from qamro_cache_cli.evaluate import main as evaluate_command
from qamro_cache_cli.extract import main as extract_command
from qamro_cache_cli.predict import main as predict_command
from qamro_cache_cli.train import main as train_command
from synthetic_cache import write_synthetic

from fuzz.commands import run
from fuzz.harness import Door

_QUICK = "--epochs 1 --seeds 1 --cv 2 --widths 4"
#: Command lines that are right: how often, the command, its arguments.
LINES: tuple[tuple[int, click.Command, str], ...] = (
    (6, train_command, f"--cache emb.h5 --out out --axis quality {_QUICK}"),
    (6, ablate_command, f"--cache emb.h5 --out out --axis quality --resamples 5 {_QUICK}"),
    (1, ablate_command, "--cache emb.h5 --out out --grid grid.toml --axis match --json"),
    (4, evaluate_command, "--predictions run/predictions.csv --labels emb.h5 --resamples 5"),
    (4, predict_command, "--head run/head.safetensors --cache emb.h5 --out out.csv"),
    (2, predict_command, "--head sounds.safetensors --audio sounds --out out.csv"),
    (6, extract_command, "--manifest clips.csv --encoder mel --out out.h5"),
    (1, extract_command, "--dataset demo --dry-run"),
    (1, extract_command, "--check --encoder mel --device cpu"),
    (1, cache_command, "info emb.h5"),
    (1, cache_command, "verify sounds.h5 --deep --sample 1"),
    (1, cache_command, "merge emb.h5 --out out.h5"),
    (1, cache_command, "relabel emb.h5 --labels labels.csv --out out.h5"),
    (1, cache_command, "export emb.h5 --out out --format npy"),
)
_NUMBERS = (
    "0", "1", "-1", "2", "3", "7", "0.5", "1e-3", "-0.0", "1e308", "1e309", "inf", "nan", "1e9",
    "1000000000", "100000", "1000000", "4096", "2147483648", "9" * 25, "9" * 5000, "0x10", "1_0",
    "--", "١٢",
)  # fmt: skip
_TEXTS = (
    "", " ", "x", "é" * 40, "a" * 300, "a" * 5000, "\x1b[31m", "\n", "\udc80", "[/x]", "{}", "%s",
    ",", "1,2,,3", "(", "'", "=", "a=b", "system=S1", "=x", "-", "--", "-x", "split", "group", "2",
    "None",
)  # fmt: skip
_PATHS = (
    "emb.h5", "sounds.h5", "clips.csv", "labels.csv", "run", "run/predictions.csv", "sounds", ".",
    "run/head.safetensors", "no/such", "/dev/null", "/dev/zero", "/dev/full", "a" * 300, "..", "~",
    "sounds/a.wav", "empty", "/proc/self/mem", "out", "clips.csv/x", "*.h5", "", "\udc80.h5",
    "grid.toml",
)  # fmt: skip
#: Values that an option of this name knows; any other is given as well.
_OWN: dict[str, tuple[str, ...]] = {
    "epochs": ("0", "1", "2", "-1", "1000001", "1e9", "x"),
    "device": (
        "cpu", "cpu:1", "hpu", "meta", "privateuseone", "mps", "cuda", "cuda:99", "xla", "é",
        "vulkan", "cpu,cpu", "fpga", "mtia",
    ),
    "encoder": ("mel", "none", "hf:x", "hf:x/y", "hf:../../etc", "fake", "clap", "MEL"),
    "dataset": ("demo", "x.toml", "x.csv", "musiceval", "grid.toml", "none"),
    "shard": (
        "1/2", "2/2", "0/2", "3/2", "999999999/999999999", "1/999999999", "/", "1/2/3", "all",
    ),
    "cv": ("2", "3", "2,2", "system", "group", "prompt", "split", "1", "0", "24", "23", "10000000"),
    "ray": ("",),
    "loss": (
        "huber", "qamro", "huber+huber", "0*huber", "huber(", "qamro(alpha=1e308)@raw", "huber@x",
        "1e400*huber", "+".join(["mse"] * 300), "qamro(beta=1,beta=2)",
    ),
    "widths": (
        "4", "", "0", "4-4", "1000000", "99999999", "-".join("2" * 40), "256-64", "-",
        "65536-65536", "6000-6000",
    ),
    "seeds": ("1", "2", "0", "100000", "100001", "1e3", "-1"),
    "resamples": ("0", "1", "10", "100", "10001", "1000000", "-1"),
    "axis": ("quality", "match", "quality,match", "none"),
    "split": ("train", ""),
    "grid": ("grid.toml", "none", "sounds/a.wav"),
    "head": ("mlp", "linear", "audiobox", "run/head.safetensors", "none"),
    "feature": ("embedding", "layers", "text", "none"),
    "raters": ("0", "1", "2", "9"),
    "data_dir": ("sounds", "none", "."),
}  # fmt: skip
_GRID = "[grid]\nalpha = [0.1, 0.2]\n[settings]\nepochs = 1\ncv = 2\nwidths = [4]\n"


def prepare(folder: Path) -> None:
    write_synthetic(folder / "emb.h5", clips=24)
    (folder / "sounds").mkdir()
    rows = ["clip_id,path,system,quality\n"]
    for k, name in enumerate("abcdef"):
        (folder / f"sounds/{name}.wav").write_bytes(encoded(noise(seed=k), "wav"))
        rows.append(f"{name},sounds/{name}.wav,S{k % 2},{k}\n")
    (folder / "clips.csv").write_text("".join(rows))
    (folder / "labels.csv").write_text("clip_id,quality\nclip001,3\nclip002,4\n")
    (folder / "grid.toml").write_text(_GRID)
    (folder / "empty").write_text("")
    with contextlib.chdir(folder):
        train = f"--cache emb.h5 --out run --axis quality {_QUICK}"
        assert run(train_command, *train.split())[0] == 0
        extract = "--manifest clips.csv --encoder mel --out sounds.h5"
        assert run(extract_command, *extract.split())[0] == 0
        train = f"--cache sounds.h5 --out of-sounds {_QUICK}"
        assert run(train_command, *train.split())[0] == 0
    (folder / "of-sounds/head.safetensors").rename(folder / "sounds.safetensors")
    shutil.rmtree(folder / "of-sounds")


def load(folder: Path) -> Path:
    os.environ.update(HF_HUB_OFFLINE="1", XDG_CACHE_HOME=str(folder), COLUMNS="80")
    return folder


def case(good: Path, choose: random.Random, place: Path) -> str:
    line = hostile_line(choose)
    shutil.copytree(good, place / "work")
    with contextlib.chdir(place / "work"):
        result = CliRunner().invoke(line[0], line[1])
    shown = f"{line[0].name} {line[1]!a}"[:1500]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise RuntimeError(shown) from result.exception
    assert result.exit_code in (0, 1, 2, 3), f"exit {result.exit_code}: {shown}"
    lines = result.stderr.splitlines()
    assert all(len(one) < 500 for one in lines), f"a long line: {shown}: {result.stderr[:1500]}"
    assert all(one.isprintable() for one in lines), f"an escape: {shown}: {result.stderr[:1500]!a}"
    errors = [one for one in lines if one.startswith("error: ")]
    assert len(errors) == (result.exit_code in (1, 2)), (
        f"{errors}: {shown}: {result.stderr[-1500:]}"
    )
    for word in ("Errno", "Traceback", "Error(", "Exception", "memory ran out"):
        assert not any(word in one for one in errors), f"{errors}: {shown}"
    return {0: "done", 3: "done"}.get(result.exit_code, "refused")


def hostile_line(choose: random.Random) -> tuple[click.Command, list[str]]:
    """Return a command and arguments in which some are replaced, added, repeated or removed."""
    _, command, text = choose.choices(LINES, [line[0] for line in LINES])[0]
    words = text.split()
    inner: Any = command
    if isinstance(command, click.Group):
        inner = command.commands[words[0]]
    options = [p for p in inner.params if isinstance(p, click.Option) and p.opts[0] != "--version"]
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        kind = choose.randrange(10)
        named = [k for k, word in enumerate(words) if word.startswith("--")]
        if kind < 6:
            option = choose.choice(options)
            value = [] if option.is_flag else [_value_of(option, choose)]
            words += [choose.choice(option.opts + option.secondary_opts), *value]
        elif kind == 6 and named:
            del words[choose.choice(named)]
        elif kind == 7 and named:
            at = choose.choice(named)
            words += words[at : at + 2]
        elif kind == 8:
            words.insert(choose.randrange(len(words) + 1), choose.choice(_TEXTS))
        elif named:
            at = choose.choice(named) + 1
            words[at : at + 1] = [choose.choice(_PATHS + _TEXTS + _NUMBERS)]
    for name in ("epochs", "seeds"):  # what replaced the value may be legal, and long
        for at, word in enumerate(words[:-1], 1):
            if word == f"--{name}" and words[at] not in _OWN[name]:
                words[at] = "1"
    return command, words


def _value_of(option: click.Option, choose: random.Random) -> str:
    own = _OWN.get(option.name or "", ())
    setting = getattr(option.type, "setting", None)
    own += tuple(getattr(setting, "choices", ()))
    if option.name in ("epochs", "seeds") or (own and choose.random() < 0.7):
        return choose.choice(own)
    if setting is not None and setting.kind in (int, float) and choose.random() < 0.8:
        return choose.choice(_NUMBERS)
    if isinstance(option.type, click.Path) and choose.random() < 0.8:
        return choose.choice(_PATHS)
    return choose.choice(_TEXTS + _NUMBERS)


DOOR = Door("command_lines", prepare, load, case, share=0.1)
