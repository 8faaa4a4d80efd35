"""Click options made from the library's declarations (`qamro_cache.settings`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from qamro_cache.settings import Setting, settings_of

Command = TypeVar("Command", bound=Callable[..., Any])


# Of older versions of click the class takes no type arguments.
class _Declared(click.ParamType):  # type: ignore[type-arg]
    """A value that its declaration reads and checks."""

    def __init__(self, declared: Setting) -> None:
        self.declared = declared
        self.name = declared.kind.__name__

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return the value in its type; what is not allowed is wrong usage."""
        try:
            if isinstance(value, str):
                return self.declared.parse(value)
            return self.declared.check(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)


def option_of(
    setting: Setting, *, multiple: bool = False, required: bool = False
) -> Callable[[Command], Command]:
    """Return the click option of a declaration."""
    flag = "--" + setting.name.replace("_", "-")
    default = setting.default_help or (
        "" if setting.default in (None, "", ()) else setting.show(setting.default)
    )
    if setting.kind is bool:
        both = f"{flag}/--no-{flag[2:]}" if setting.default else flag
        return click.option(
            both, setting.name, is_flag=True, default=setting.default, help=setting.help
        )
    kind: Any = _Declared(setting)
    if setting.kind is Path:
        kind = click.Path(path_type=Path)
    elif setting.choices:
        kind = click.Choice([choice for choice in setting.choices if choice])
    return click.option(
        flag,
        setting.name,
        type=kind,
        default=None if multiple else setting.default,
        multiple=multiple,
        required=required,
        help=setting.help + (f" [{default}]" if default and not required else ""),
    )


def request_options(request: type) -> Callable[[Command], Command]:
    """Add an option for every declared field of a request."""

    def add(command: Command) -> Command:
        for declared in reversed(list(settings_of(request).values())):
            command = option_of(declared)(command)
        return command

    return add
