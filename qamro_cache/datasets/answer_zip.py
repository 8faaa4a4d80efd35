"""The zip that the AudioMOS Challenge takes: ``answer.txt`` at its top."""

import io
import zipfile
from pathlib import Path

from qamro_cache.errors import QamroError, words_of

#: What must lie in it, and how many bytes that is at most.
MEMBER, _LARGEST = "answer.txt", 256 << 20


def is_zip(path: Path) -> bool:
    """Return whether an answer is in a zip, by its name."""
    return path.suffix.lower() == ".zip"


def zipped(text: str) -> bytes:
    """Return a zip with a text as ``answer.txt``: the same bytes for the same text."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), text.encode(), zipfile.ZIP_DEFLATED)
    return made.getvalue()


def unzipped(path: Path) -> bytes:
    """Return the ``answer.txt`` of a zip.

    Raises:
        QamroError: it is no zip, is damaged, or has no such file at its top.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MEMBER) as file:
            data = file.read(_LARGEST + 1)
    except KeyError:
        raise QamroError(
            f"{path}: has no {MEMBER} at its top; zip the file itself, not its folder"
        ) from None
    # Whatever a stranger's file makes the library raise.
    except Exception as error:
        raise QamroError(f"{path}: is no zip that can be read ({words_of(error)})") from error
    if len(data) > _LARGEST:
        raise QamroError(f"{path}: its {MEMBER} is larger than an answer can be")
    return data
