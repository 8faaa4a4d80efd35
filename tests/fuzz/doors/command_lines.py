"""Command lines, right and wrong, of every command."""

import random
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from synthetic_cache import write_synthetic

from fuzz.commands import one_line, run
from fuzz.harness import Door

#: Values of any option, beside those that its type would choose.
VALUES = (
    "", " ", "0", "-1", "1", "2", "3", "7", "1e9", "1e400", "nan", "inf", "-inf", "9" * 30, "0x10",
    "1,2", "1,,2", ",", "None", "true", "x", "é", "\u0661", "a\nb", "\x1b[31m", "[/x]", "x" * 5000,
    "cpu", "cuda:99", "meta", "hpu", "mps", "privateuseone", "group", "system", "split", "mel",
    "1/2", "2/1", "quality", "match", "huber", "/dev/null", "/", ".", "system=a",
)  # fmt: skip

#: Options that begin long work or name a place beside the case's own folder.
LEFT_ALONE = {"out", "help", "version", "ray", "checkpoint", "tokenizer"}
QUICK = ["--widths", "4", "--epochs", "1", "--seeds", "1", "--cv", "2"]


def prepare(folder: Path) -> None:
    from qamro_cache_cli.train import main as train_command

    write_synthetic(folder / "emb.h5", clips=24)
    arguments = ["--cache", folder / "emb.h5", *QUICK, "--out", folder / "run"]
    assert run(train_command, *arguments)[0] == 0


def load(folder: Path) -> dict[str, tuple[Any, list[str]]]:
    cache, head = str(folder / "emb.h5"), str(folder / "run/head.safetensors")
    table = str(folder / "run/predictions.csv")
    begin = {
        "train": ["--cache", cache, *QUICK],
        "ablate": ["--cache", cache, *QUICK, "--resamples", "10"],
        "predict": ["--head", head, "--cache", cache],
        "evaluate": ["--predictions", table, "--labels", cache, "--resamples", "10"],
        "extract": ["--manifest", str(folder / "none.csv"), "--encoder", "mel"],
    }
    return {
        name: (import_module(f"qamro_cache_cli.{name}").main, line) for name, line in begin.items()
    }


def case(good: dict[str, tuple[Any, list[str]]], choose: random.Random, place: Path) -> str:
    name = choose.choice(list(good))
    command, line = good[name]
    options = [
        one
        for one in command.params
        if isinstance(one, click.Option) and one.name not in LEFT_ALONE
    ]
    line = [*line, "--out", str(place / ("p.csv" if name == "predict" else "out"))]
    for option in choose.sample(options, choose.randint(1, 3)):
        flag = choose.choice(option.opts)
        line += [flag] if option.is_flag else [flag, choose.choice(VALUES)]
    if choose.random() < 0.1:
        line.insert(choose.randrange(len(line)), choose.choice(VALUES))
    result = CliRunner().invoke(command, line)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{line}") from result.exception
    assert result.exit_code in (0, 1, 2, 3), result.exit_code
    if result.exit_code in (1, 2):
        errors = [text for text in result.stderr.splitlines() if text.lower().startswith("error: ")]
        assert len(errors) == 1, f"{line}: {result.stderr[-800:]}"
        one_line(errors[0])
        return "refused"
    return "taken"


DOOR = Door("command_lines", prepare, load, case)
