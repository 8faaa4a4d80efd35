"""Open one audio file, or a part of one, with what is wrong in its header told as a ClipError."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qamro_cache.audio.containers.promise import promised_parts
from qamro_cache.audio.containers.source import FileBytes, Part, PartFile
from qamro_cache.audio.endings import CONVERT
from qamro_cache.audio.tar import member_state, open_member
from qamro_cache.audio.windows import Samples
from qamro_cache.errors import ClipError, QamroError, words_of

#: Sample rates that are taken for true, in Hz.
RATES = (1_000, 1_000_000)
#: Formats that libsndfile does not read, with the bytes that tell them and where these stand.
_FOREIGN = {
    "MP4 (AAC or ALAC)": (4, b"ftyp"),
    "AAC": (0, b"\xff\xf1"),
    "AAC (MPEG 2)": (0, b"\xff\xf9"),
    "WebM or Matroska": (0, b"\x1aE\xdf\xa3"),
    "Windows Media": (0, b"0&\xb2u\x8ef\xcf\x11"),
    "AMR": (0, b"#!AMR"),
    "Monkey's Audio": (0, b"MAC "),
    "WavPack": (0, b"wvpk"),
}


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Open a file, or a member of a tar, for reading.

    Raises:
        ClipError: ``missing``, or ``unreadable``, also while it is read.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except NotADirectoryError as error:
        handle = _opened_member(path, error)
    except FileNotFoundError as error:
        raise ClipError("missing", f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise ClipError("unreadable", f"{path} cannot be opened ({words_of(error)})") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ClipError("unreadable", f"{path} is not a regular file")
        yield handle
    except OSError as error:
        raise ClipError("unreadable", f"{path} cannot be read ({words_of(error)})") from error
    finally:
        os.close(handle)


def _opened_member(path: Path, error: OSError) -> int:
    """Open what may be a member of a tar; ``error`` is why it is no file."""
    try:
        handle = open_member(path)
    except (QamroError, OSError) as why:
        raise ClipError("unreadable", f"{path} cannot be opened ({words_of(why)})") from why
    if handle is None:
        raise ClipError("missing", f"there is no file {path}") from error
    return handle


def file_state(path: str | Path) -> tuple[int, int]:
    """Return the size of a file, or of a member of a tar, and when it was modified, in ns.

    Raises:
        OSError: there is none.
        QamroError: its tar cannot be read.
    """
    try:
        info = os.stat(path)  # noqa: PTH116 - a name of any bytes
    except NotADirectoryError:
        found = member_state(path)
        if found is None:
            raise
        return found
    return info.st_size, info.st_mtime_ns


def is_there(path: str | Path) -> bool:
    """Return whether there is a file of that name, or a member of a tar."""
    if os.path.isfile(path):  # noqa: PTH113 - a name of any bytes
        return True
    with suppress(QamroError):
        return member_state(path) is not None
    return False


def parts_of(handle: int, path: Path) -> tuple[Part, ...]:
    """Return what of an open file must be decoded; see ``promised_parts``.

    Raises:
        ClipError: ``empty``, or ``unreadable``: the file holds less than it promises, or something
            else within.
    """
    data = FileBytes(handle)
    if data.size == 0:
        raise ClipError("empty", f"{path} has no bytes")
    try:
        return promised_parts(data)
    except ClipError as error:
        raise ClipError(error.code, f"{path} {error.reason}") from error


def opened_parts(handle: int, path: Path) -> Iterator[tuple[Part, Any]]:
    """Open one part of a file after the other; see `parts_of` and `open_part`.

    Raises:
        ClipError: theirs, and ``unreadable`` where parts have several rates.
    """
    rate = 0
    for part in parts_of(handle, path):
        with open_part(handle, part, path) as file:
            if rate and file.samplerate != rate:
                raise ClipError(
                    "unreadable",
                    f"{path} is glued from parts at {rate} and {file.samplerate} Hz; "
                    "convert them to one rate",
                )
            rate = file.samplerate
            yield part, file


@contextmanager
def open_part(handle: int, part: Part, path: Path) -> Iterator[Any]:
    """Open a part of a file as a ``soundfile.SoundFile``.

    Args:
        handle: of the open file.
        part: which stretch of it.
        path: for messages.

    Raises:
        ClipError: ``unreadable``: not audio, an implausible rate, or a length that is shorter
            than the file promises.
    """
    import soundfile

    whole = part.as_it_is and part.start == 0 and part.stop == os.fstat(handle).st_size
    source: Any = handle if whole else PartFile(handle, part)
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        file = _forward()(source, closefd=False)
        if file.subtype == "OPUS":
            # Else libsndfile gives the encoder's delay of a stream that counts from elsewhere than
            # 0, and takes as much out again behind the first block.
            file.seek(0)
    except soundfile.LibsndfileError as error:
        raise _unknown(handle, path, error.error_string) from error
    with file:
        rate = file.samplerate
        if not RATES[0] <= rate <= RATES[1]:
            raise ClipError("unreadable", f"{path} claims a rate of {rate} Hz")
        if file.format == "MP3" and not part.rate:
            # The decoder found frames further on, and only guesses how long they are.
            raise ClipError(
                "unreadable", f"{path} does not begin with an MPEG frame; make it again"
            )
        if part.frames is not None and file.frames < part.frames:
            raise ClipError(
                "unreadable",
                f"{path}: of {part.frames / rate:.2f} s the decoder finds {file.frames / rate:.2f} "
                "s; convert the file with another program",
            )
        yield file
    if not whole and source.error is not None:
        raise source.error


@cache
def _forward() -> Any:
    """Return the class of a ``SoundFile`` whose MPEG audio is read from its beginning to its end.

    soundfile seeks to where it is after each read of a file that can seek, and MPEG frames have
    lost then what those before had kept for them.
    """
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return super().seekable() and not self.subtype.startswith("MPEG")

    return Forward


def blocks_of(
    file: Any, path: Path, samples: int, before: float = 0.0
) -> Iterator[tuple[Samples, Samples]]:
    """Yield the sound of an open part: blocks [frames, channels], each with its mean [frames].

    Args:
        file: as `open_part` gives it.
        path: for messages.
        samples: of all channels that are decoded at once.
        before: seconds of the parts before, for messages.

    Raises:
        ClipError: ``unreadable``: it is damaged; ``not-finite``.
    """
    import soundfile

    done, step = 0, max(1, samples // file.channels)
    while True:
        try:
            block = file.read(min(step, file.frames - done), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            after = f"{before + done / file.samplerate:.1f} s ({error.error_string})"
            raise ClipError("unreadable", f"{path} is damaged after {after}") from error
        if len(block) == 0:
            return
        done += len(block)
        yield block, mixed(block, str(path))
        # Where frames are lost libsndfile would fill its length up with sound that came before.
        if file.format == "FLAC" and len(block) < step:
            return


def mixed(block: Samples, name: str) -> Samples:
    """Return the mean of the channels [frames] of a block [frames, channels].

    Raises:
        ClipError: ``not-finite``.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        mean = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mean).all():
        raise ClipError("not-finite", f"{name} holds NaN or infinite samples")
    return mean


def _unknown(handle: int, path: Path, reason: str) -> ClipError:
    """Return what to say of a file that libsndfile does not know."""
    head = os.pread(handle, 12, 0)
    for name, (offset, magic) in _FOREIGN.items():
        if head[offset:].startswith(magic):
            return ClipError(
                "unreadable", f"{path} is {name}, which cannot be read here; {CONVERT}"
            )
    kind = path.suffix.lstrip(".").lower() or "no extension"
    reason = reason.strip().rstrip(".")
    return ClipError(
        "unreadable",
        f"{path} ({kind}) is not audio that can be read here ({reason}); if it is sound, {CONVERT}",
    )
