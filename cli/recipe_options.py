"""The options of a recipe, shared by qamro-train and qamro-ablate, and the progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from .common import usable_device

File = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])

#: Name -> (type of one value, help). Defaults are the library's, which may adapt to the data.
SETTINGS: dict[str, tuple[Any, str]] = {
    "alpha": (float, "QAMRO's margin per unit of label difference [0.2]."),
    "beta": (float, "QAMRO's weight of the best clips' pairs [7]."),
    "loss": (str, "Sum of terms, for example huber@standardized+qamro@standardized."),
    "lr": (float, "Learning rate [5e-4]."),
    "batch_size": (int, "Clips a step [256]."),
    "epochs": (int, "At most, of at least 8 steps each; exactly, with --stop fixed [100]."),
    "patience": (int, "Epochs without a better loss on the validation set [20]."),
    "optimizer": (click.Choice(["sgd", "adamw"]), "[sgd]"),
    "momentum": (float, "Of SGD [0.9]."),
    "weight_decay": (float, "[0]"),
    "dropout": (float, "Share of hidden units [0]."),
    "normalize": (
        click.Choice(["train", "batch", "scale"]),
        "What QAMRO's label quality is relative to [train].",
    ),
    "batches": (click.Choice(["shared", "own"]), "Batch orders: one for all, or one a seed."),
    "head": (click.Choice(["mlp", "linear", "audiobox"]), "Architecture [mlp]."),
    "widths": (str, "Hidden layers, for example 256-64."),
    "activation": (
        click.Choice(["none", "relu", "gelu", "tanh"]),
        "none as the released heads [relu].",
    ),
    "layer_norm": (bool, "[false]"),
    "output": (click.Choice(["linear", "bounded"]), "bounded stays within the scale [linear]."),
    "pooling": (
        click.Choice(["mean", "max", "attention", "scores"]),
        "Of a clip's windows; scores: a score a window, then their mean [mean].",
    ),
    "inputs": (
        click.Choice(["audio", "concat", "products"]),
        "What the head sees of the prompt [audio].",
    ),
}


def run_options(command: Command) -> Command:
    """Add what a run of training takes beside its recipe."""
    options = (
        click.option("--axis", multiple=True, help="Axis to train for; may repeat [all]."),
        click.option("--labels", type=File, help="Ratings to use instead of the cache's."),
        click.option(
            "--stop",
            type=click.Choice(["inner", "fixed"]),
            help="Stop on a part of the training clips, or after --epochs "
            "[fixed; inner for a split].",
        ),
        click.option(
            "--device",
            callback=usable_device,
            default="",
            help="Torch device [a GPU if there is one].",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "tf32", "bf16"]),
            default="float32",
            show_default=True,
            help="Of products on a GPU.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def recipe_options(command: Command) -> Command:
    """Add one option a setting; what is not given is left to the library."""
    for name, (kind, text) in reversed(SETTINGS.items()):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, type=kind, default=None, help=text)(command)
    return command


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Take the settings that were given out of a command's options."""
    given = {name: options.pop(name) for name in SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    if "widths" in given:
        given["widths"] = parse_widths(given["widths"])
    return given


def parse_widths(text: str) -> tuple[int, ...]:
    """Read hidden widths, ``256-64``; empty for none."""
    parts = [part for part in text.split("-") if part]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not numbers joined by -, for example 256-64")
    return tuple(int(part) for part in parts)


@contextmanager
def training_bar() -> Iterator[Callable[[int, int, int], None]]:
    """Show epochs and the heads that still run on stderr; yield the callback that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %, {task.fields[running]} heads running"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=None, running=0)

        def move(done: int, total: int, running: int) -> None:
            bar.update(task, completed=done, total=total, running=running)

        yield move
