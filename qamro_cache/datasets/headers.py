"""Whether audio files can be used at all: a quick look at each, for a dry run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qamro_cache.audio.check import Oddity, look_at
from qamro_cache.errors import ClipError

#: Files that are opened at most; of more a random sample, the same every time.
MOST = 1000


@dataclass(frozen=True)
class Headers:
    """What opening files came to.

    Attributes:
        files: how many there are.
        opened: how many were opened.
        errors: row of a file that cannot be used -> why, with the status it would get.
        odd: what is odd about levels -> the rows of those files.
    """

    files: int
    opened: int
    errors: Mapping[int, ClipError]
    odd: Mapping[Oddity, Sequence[int]]

    def record(self) -> dict[str, int]:
        """Return the counts."""
        return {"files": self.files, "opened": self.opened, "unreadable": len(self.errors)}

    def message(self) -> str:
        """Say how many cannot be read, with which status, and the first reasons."""
        of = f"of {self.opened} audio files"
        if self.opened < self.files:
            of += f" (a random sample of {self.files})"
        codes = Counter(error.code for error in self.errors.values())
        counts = ", ".join(f"{code} {count}" for code, count in sorted(codes.items()))
        shown = "; ".join(error.reason for error in list(self.errors.values())[:3])
        return f"{len(self.errors)} {of} cannot be read ({counts}), the first are {shown}"


def open_headers(paths: Sequence[str], there: npt.NDArray[np.bool_]) -> Headers:
    """Look at files, all or a sample of MOST: headers, and sound up to where there is some.

    Args:
        paths: of all files.
        there: which of them exist.
    """
    files = rows = np.flatnonzero(there)
    if len(files) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(files, MOST, replace=False))
    errors: dict[int, ClipError] = {}
    odd: dict[Oddity, list[int]] = {}
    for row in rows.tolist():
        try:
            if oddity := look_at(Path(paths[row])):
                odd.setdefault(oddity, []).append(row)
        except ClipError as error:
            errors[row] = error
    return Headers(len(files), len(rows), errors, odd)
