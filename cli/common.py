"""What the commands share: one clear line for a mistake, and notices on stderr."""

import sys
from typing import Any, NoReturn

import click

from qamro_cache.errors import OptionError, QamroError

#: ``--version`` of every command.
version_option = click.version_option(package_name="qamro-cache", message="%(prog)s %(version)s")


class OneLine(click.Command):
    """A command whose mistakes are one line on stderr, never a traceback.

    Wrong usage leaves with exit code 2, everything else that was not done with 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {"help_option_names": ["-h", "--help"]}
        super().__init__(*args, **kwargs)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and leave the process."""
        _run(super().main, *args, **kwargs)


class OneLineGroup(click.Group):
    """A group of commands, each as `OneLine`."""

    command_class = OneLine

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {"help_option_names": ["-h", "--help"]}
        super().__init__(*args, **kwargs)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and leave the process."""
        _run(super().main, *args, **kwargs)


def _run(command: Any, *args: Any, **kwargs: Any) -> NoReturn:
    try:
        code = command(*args, **{**kwargs, "standalone_mode": False})
    except click.UsageError as error:
        name = "" if error.ctx is None else f"; see {error.ctx.command_path} --help"
        fail(f"{error.format_message().rstrip('.')}{name}", code=2)
    except OptionError as error:
        fail(str(error), code=2)
    except (KeyboardInterrupt, click.Abort):
        fail(
            "stopped; run the same command again "
            "(qamro-extract and qamro-ablate go on where they were)"
        )
    except (QamroError, OSError) as error:
        fail(str(error))
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what is wrong in one line on stderr and leave."""
    click.echo(f"error: {printable(message)}", err=True)
    sys.exit(code)


def printable(text: str) -> str:
    """Escape what could move a terminal's cursor or colors; one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def notices_to_stderr() -> None:
    """Send the library's notices (logging, logger ``qamro_cache``) to stderr, a line each."""
    import logging

    class OneLineFormatter(logging.Formatter):
        # Notices quote paths and names out of files, which may hold terminal escapes.
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record))

    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("qamro_cache")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
