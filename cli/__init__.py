"""The commands: parse, call the library, present."""

import sys
from types import TracebackType


def _in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Say of Ctrl-C that it was pressed: a command that is still being loaded does not catch it."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("error: stopped; nothing was done\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _in_one_line
