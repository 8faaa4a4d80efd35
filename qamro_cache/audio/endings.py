"""The endings of audio files: those that can be read here, and those that must be converted."""

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
