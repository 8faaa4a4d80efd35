"""Lines of JSON, an object each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qamro_cache.errors import QamroError


def json_objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line that is not blank, from 1 on, and its object.

    Raises:
        QamroError: a line is not UTF-8, not JSON, or no object.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                raise QamroError(f"{file}, row {number}: is not UTF-8; save it as UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise QamroError(f"{file}, row {number}: not JSON ({error}); mend it") from None
            if not isinstance(record, dict):
                raise QamroError(f"{file}, row {number}: is no object; write one a line")
            yield number, record
