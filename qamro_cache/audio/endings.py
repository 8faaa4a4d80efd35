"""The endings of audio files: those that can be read here, and those that must be converted."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

#: What libsndfile reads.
AUDIO_ENDINGS = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".mp2",
    ".aiff",
    ".aif",
    ".aifc",
    ".w64",
    ".rf64",
    ".caf",
    ".au",
    ".snd",
)
#: Audio that libsndfile does not read.
OTHER_ENDINGS = (
    ".m4a",
    ".mp4",
    ".aac",
    ".wma",
    ".webm",
    ".mka",
    ".amr",
    ".3gp",
    ".ac3",
    ".ape",
    ".wv",
    ".spx",
    ".dsf",
    ".tta",
    ".alac",
)
ENDINGS = (*AUDIO_ENDINGS, *OTHER_ENDINGS)
#: How to make it readable.
CONVERT = "convert with: ffmpeg -i FILE FILE.wav"


#: Files that a message names at most.
_NAMED = 5


def find_audio(folder: Path, *more: str) -> tuple[list[Path], list[Path]]:
    """Return the audio files below a folder in order, and the audio that cannot be read here.

    Files with one of ``more`` endings are taken, too.

    Hidden files and folders are passed over: macOS leaves ``._NAME.wav`` beside ``NAME.wav``.
    Links to folders are followed. A link to nothing is a file that cannot be read, as any other.

    Raises:
        OSError: a folder cannot be read.
    """
    found = []
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        # A link to a folder above would never end. Folders come before links to them, and by their
        # names, so that the clips' names are the same on every disk.
        inner = sorted((Path(place, name).is_symlink(), name) for name in folders if name[0] != ".")
        folders.clear()
        for _, name in inner:
            real = os.path.realpath(Path(place, name))
            if real not in seen:
                folders.append(name)
            seen.add(real)
        found += [Path(place, name) for name in names if not name.startswith(".")]
    found.sort()
    readable = [path for path in found if path.suffix.lower() in (*AUDIO_ENDINGS, *more)]
    return readable, [path for path in found if path.suffix.lower() in OTHER_ENDINGS]


def _raise(error: OSError) -> None:
    raise error


def others_message(folder: Path, others: Sequence[Path]) -> str:
    """Say in one line which files are left out and how to make them readable."""
    endings = Counter(path.suffix.lower() for path in others)
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
    names = [path.relative_to(folder).as_posix() for path in others[:_NAMED]]
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return f"left out: {counts}, which cannot be read here ({', '.join(names)}{more}); {CONVERT}"
