"""Where a page's players find their sound: linked, or within the page."""

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

from qamro_cache.errors import QamroError

#: What browsers play, by ending; anything else is put into a page as FLAC.
_PLAYED = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
}

#: Megabytes of sound that a page holds at most.
MOST_EMBEDDED = 64


class Sounds:
    """The sounds of a page: each file is looked up, and put into the page, once.

    Args:
        way: ``link``, ``embed`` or ``none``.
        folder: of the page; links start there.
    """

    def __init__(self, way: str, folder: Path) -> None:
        self.way, self.folder = way, folder
        self.embedded: list[str] = []
        self._found: dict[str, dict[str, str]] = {}
        self._size = 0

    def player(self, path: str) -> dict[str, str]:
        """Return ``src`` of a linked sound, or ``number`` of an embedded one; empty for none."""
        if self.way == "none" or not path:
            return {}
        if path not in self._found:
            self._found[path] = self._look(path)
        return self._found[path]

    def _look(self, path: str) -> dict[str, str]:
        if not os.path.isfile(path):  # noqa: PTH113 - a name of any bytes
            return {}
        if self.way == "link":
            relative = os.path.relpath(path, self.folder)
            return {"src": quote(os.fsencode(relative))}
        data, kind = _bytes_of(Path(path))
        if not data:
            return {}
        self._size += len(data)
        if self._size > MOST_EMBEDDED << 20:
            raise QamroError(
                f"the sounds of this page are more than {MOST_EMBEDDED} MB; "
                "link them (--audio link)"
            )
        self.embedded.append(f"data:{kind};base64,{base64.b64encode(data).decode()}")
        return {"number": str(len(self.embedded) - 1)}


def _bytes_of(path: Path) -> tuple[bytes, str]:
    """Return what a browser plays of a file, and its kind; nothing for a file that is no sound."""
    kind = _PLAYED.get(path.suffix.lower())
    try:
        if kind is not None:
            return path.read_bytes(), kind
        import soundfile

        samples, rate = soundfile.read(path, dtype="float32")
        flac = io.BytesIO()
        soundfile.write(flac, samples, rate, format="FLAC")
        return flac.getvalue(), "audio/flac"
    except (OSError, RuntimeError):
        return b"", ""
