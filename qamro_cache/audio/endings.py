"""The endings of audio files: those that can be read here, and those that must be converted."""

from collections import Counter
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
#: How to make it readable.
CONVERT = "convert with: ffmpeg -i FILE FILE.wav"


def find_audio(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the audio files below a folder in order, and what is left out, by its ending.

    Hidden files and folders are passed over: macOS leaves ``._NAME.wav`` beside ``NAME.wav``.
    """
    found, others = [], Counter[str]()
    for path in sorted(folder.rglob("*")):
        ending = path.suffix.lower()
        if any(name.startswith(".") for name in path.relative_to(folder).parts):
            continue
        if ending in AUDIO_ENDINGS and path.is_file():
            found.append(path)
        elif ending in OTHER_ENDINGS and path.is_file():
            others[ending] += 1
    return found, others


def others_message(others: Counter[str]) -> str:
    """Say in one line which files are left out and how to make them readable."""
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
    return f"left out: {counts}, which cannot be read here; {CONVERT}"
