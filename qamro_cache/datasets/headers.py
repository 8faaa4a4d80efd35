"""Whether audio files can be opened at all: a quick look at their headers, for a dry run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Files that are opened at most; of more a random sample, the same every time.
MOST = 1000


@dataclass(frozen=True)
class Headers:
    """What opening files came to.

    Attributes:
        files: how many there are.
        opened: how many were opened.
        reasons: row of a file that cannot be read -> why.
    """

    files: int
    opened: int
    reasons: Mapping[int, str]

    def record(self) -> dict[str, int]:
        """Return the counts."""
        return {"files": self.files, "opened": self.opened, "unreadable": len(self.reasons)}

    def message(self, paths: Sequence[str]) -> str:
        """Say how many cannot be read, and the first reasons."""
        of = f"of {self.opened} audio files"
        if self.opened < self.files:
            of += f" (a random sample of {self.files})"
        shown = "; ".join(f"{paths[row]}: {why}" for row, why in list(self.reasons.items())[:3])
        return f"{len(self.reasons)} {of} cannot be read, the first are {shown}"


def open_headers(paths: Sequence[str], there: npt.NDArray[np.bool_]) -> Headers | None:
    """Open the headers of files, all or a sample of MOST; no sample is decoded.

    Args:
        paths: of all files.
        there: which of them exist.

    Returns:
        None without soundfile, which is in the extra ``audio``.
    """
    try:
        import soundfile
    except (ImportError, OSError):
        return None
    files = rows = np.flatnonzero(there)
    if len(files) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(files, MOST, replace=False))
    reasons: dict[int, str] = {}
    for row in rows.tolist():
        path = paths[row]
        # Opening a pipe would wait for a writer.
        if not os.path.isfile(path):  # noqa: PTH113
            reasons[row] = "not a regular file"
            continue
        try:
            # As bytes, because a name need not be UTF-8.
            if soundfile.info(os.fsencode(path)).frames == 0:
                reasons[row] = "no samples"
        except soundfile.LibsndfileError as error:
            reasons[row] = error.error_string.strip().rstrip(".")
        except OSError as error:
            reasons[row] = error.strerror or str(error)
    return Headers(len(files), len(rows), reasons)
