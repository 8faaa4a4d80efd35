"""Command-line options, made from the declarations of `qamro_cache.settings`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from qamro_cache.settings import Setting, settings_of, split_list

from .completion import offered

Command = TypeVar("Command", bound=Callable[..., Any])

_GIVE = "give it a value, or leave it out"


def _refuse_empty(
    value: Any, param: click.Parameter | None, ctx: click.Context | None, do: str
) -> None:
    """Refuse an empty text, as of a shell's variable that is not set: a path of it would be ``.``.

    ``do``: what to do about it, in words.
    """
    if value == "" and param is not None:
        is_option = isinstance(param, click.Option)
        name = param.opts[0] if is_option else param.human_readable_name.rstrip(".")
        raise click.UsageError(f"{name} is empty; {do}", ctx)


class FileName(click.Path):
    """A path, and not an empty one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, which need not exist."""
        _refuse_empty(value, param, ctx, f"name a file{' or folder' * self.dir_okay}")
        return super().convert(value, param, ctx)


# Of older versions of click the class takes no type arguments.
class Name(click.ParamType):  # type: ignore[type-arg]
    """A text that names something, and is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text as it is."""
        _refuse_empty(value, param, ctx, _GIVE)
        return value


#: A path that need not exist yet.
File = FileName(path_type=Path)
#: One that is no folder.
PlainFile = FileName(dir_okay=False, path_type=Path)

#: The caches that a command reads.
CACHES = click.option(
    "--cache", type=File, required=True, multiple=True, help="From qamro-extract; may repeat."
)
#: The caches of clips that a head scores.
EMBEDDINGS = click.option(
    "--cache",
    type=File,
    metavar="FILE",
    multiple=True,
    help="Embeddings of the clips; may repeat: parts of one, or one for each encoder.",
)
#: The folder of a run or a grid.
OUT_FOLDER = click.option("--out", type=File, required=True, help="Folder for the results.")

#: What is shown beside the figures.
BY = Setting("by", str, "", "What to show another table of means by.", choices=("", "system"))

#: Of ``--report`` without a file: what no command line can hold, so that an empty name is told.
USUAL_PLACE = "\0"

#: ``--report``, ``--report FILE``, or neither.
REPORT = click.option(
    "--report",
    type=Name(),
    is_flag=False,
    flag_value=USUAL_PLACE,
    metavar="[FILE]",
    help="Also make a page of it, FILE or report.html in --out (see qamro-report).",
)

#: ``--track``.
TRACK = click.option(
    "--track",
    type=Name(),
    metavar="TRACKER",
    help="Also give a row a cell to tensorboard:DIR, or to trackio, wandb or mlflow (:PROJECT).",
)


def _switch_off(context: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        os.environ["QAMRO_KERNELS"] = "0"


#: For this process and those that it starts.
NO_KERNELS = click.option(
    "--no-kernels",
    is_flag=True,
    expose_value=False,
    callback=_switch_off,
    help="Compute in plain torch on a GPU, as QAMRO_KERNELS=0 does: no Triton, no CUDA graph.",
)

_METAVAR = {float: "NUMBER", int: "NUMBER", bool: "true|false", str: "TEXT"}


class Value(click.ParamType):  # type: ignore[type-arg]
    """A value of a setting; with ``listed``, several joined by commas."""

    name = "value"

    def __init__(self, setting: Setting, *, listed: bool = False) -> None:
        self.setting, self.listed = setting, listed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a value, or a list; what the declaration does not allow is a usage error."""
        if not isinstance(value, str):
            return value
        if self.setting.kind is str:
            _refuse_empty(value, param, ctx, _GIVE)
        try:
            if self.listed:
                return [self.setting.parse(part) for part in split_list(value)]
            return self.setting.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete the choices, of a list the one after its last comma."""
        before, comma, last = incomplete.rpartition(",") if self.listed else ("", "", incomplete)
        choices = ("true", "false") if self.setting.kind is bool else self.setting.choices
        choices = choices or offered(ctx, self.setting.name)
        return [CompletionItem(before + comma + c) for c in choices if c and c.startswith(last)]


def option_of(setting: Setting, *, listed: bool = False, flag: bool = True) -> Callable[..., Any]:
    """Return the click option of a setting.

    Args:
        setting: its declaration.
        listed: whether it takes several values joined by commas, as the settings of a grid do.
        flag: whether a truth value is a flag, else it is written ``true`` or ``false``.
    """
    name = f"--{setting.name.replace('_', '-')}"
    if setting.kind is bool and flag:
        both = f"{name}/--no-{name[2:]}" if setting.default else name
        return click.option(both, setting.name, is_flag=True, default=None, help=setting.help)
    words = [setting.default_help or setting.show(setting.default)]
    words += [] if setting.choices else [setting.rule]
    shown = "; ".join(word for word in words if word)
    many = setting.several and setting.kind in (str, Path)
    one = replace(setting, several=False) if many else setting
    choices = "|".join(choice for choice in setting.choices if choice)
    return click.option(
        name,
        setting.name,
        type=File if setting.kind is Path else Value(one, listed=listed),
        multiple=many and not listed,
        default=None,
        callback=_none_for_nothing if many and not listed else None,
        metavar="PATH" if setting.kind is Path else choices or _METAVAR[setting.kind],
        help=f"{setting.help}{f' [{shown}]' if shown else ''}",
    )


def _none_for_nothing(context: click.Context, option: click.Parameter, values: Any) -> Any:
    """Tell an option that was not given from an empty value."""
    return values or None


def setting_options(
    settings: Mapping[str, Setting], *, listed: bool = False, flag: bool = True
) -> Callable[[Command], Command]:
    """Return a decorator that adds one option a setting, in their order."""

    def decorate(command: Command) -> Command:
        for setting in reversed(list(settings.values())):
            command = option_of(setting, listed=listed, flag=flag)(command)
        return command

    return decorate


def request_options(request: Any) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for every declared field of a dataclass."""
    return setting_options(settings_of(request))
