"""The folder that the clips come from: a disk that vanishes is not a set of bad clips."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from qamro_cache.audio.tar import split_member
from qamro_cache.errors import QamroError


class SourceFolder:
    """Watches the deepest folder that holds all clips.

    Args:
        paths: of the clips.

    Raises:
        QamroError: the folder is not there to begin with.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        folders = [os.path.dirname(path) or "/" for path in paths]  # noqa: PTH120
        self.folder = Path(os.path.commonpath(folders))
        # Of clips in one tar that is the tar, or a folder in it.
        if inside := split_member(self.folder / "_"):
            self.folder = inside[0].parent
        self._device = self._look()
        if self._device is None:
            raise QamroError(
                f"the clips' folder {self.folder} is missing, empty or cannot be read; "
                "mend the path or mount the disk"
            )

    def check(self) -> None:
        """Raise a QamroError if the folder is gone, or another disk is mounted there."""
        if self._look() != self._device:
            raise QamroError(
                f"the clips' folder {self.folder} is gone; what is finished is kept: "
                "when the folder is back, run the same command again"
            )

    def _look(self) -> int | None:
        """Return the device of the folder; None if it is not there, or has nothing in it.

        An unmounted disk leaves an empty folder behind.
        """
        with suppress(OSError), os.scandir(self.folder) as entries:
            if next(entries, None) is not None:
                return self.folder.stat().st_dev
        return None
