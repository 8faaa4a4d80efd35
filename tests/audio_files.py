"""Audio files for tests: small ones of every container, and what can happen to them."""

import io
import itertools
import struct
from collections.abc import Callable

import numpy as np
import soundfile

RATE = 16000
FRAMES = 24_000

#: name -> format, subtype and bitrate mode for soundfile.
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-adpcm": ("WAV", "IMA_ADPCM"),
    "wavex": ("WAVEX", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc": ("AIFF", "FLOAT"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def noise(frames: int = FRAMES, channels: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loud = np.linspace(0.3, 0.001, frames)[:, None]
    return (loud * rng.standard_normal((frames, channels))).astype(np.float32)


def encoded(sound: np.ndarray, kind: str, rate: int = RATE, **options: object) -> bytes:
    container, subtype = KINDS[kind]
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, sound.shape[1], subtype, format=container, **options
    ) as writer:
        writer.write(sound)
    return file.getvalue()


def put(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def with_size(data: bytes, kind: str, size: int) -> bytes:
    """Set the number of bytes of sound (of samples, for FLAC) that the header names."""
    if kind in ("wav", "wav-float", "wav-adpcm", "wavex"):
        return put(data, data.index(b"data") + 4, struct.pack("<I", size))
    if kind == "rf64":
        return put(data, data.index(b"ds64") + 16, struct.pack("<Q", size))
    if kind == "w64":
        return put(data, data.index(b"data") + 16, struct.pack("<Q", min(size + 24, 2**64 - 1)))
    if kind in ("aiff", "aifc"):
        named = min(size + 8, 2**32 - 1) if size else 0
        return put(data, data.index(b"SSND") + 4, struct.pack(">I", named))
    if kind == "au":
        return put(data, 8, struct.pack(">I", size))
    if kind == "caf":
        return put(data, data.index(b"data") + 4, struct.pack(">q", size + 4 if size > 0 else size))
    if kind == "nist":
        count = f"sample_count -i {size // 4}".encode()
        return data.replace(f"sample_count -i {FRAMES}".encode(), count).ljust(len(data), b" ")
    assert kind == "flac"
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | size
    return put(data, 18, packed.to_bytes(8, "big"))


def mp3_frames(data: bytes) -> list[int]:
    """Return where the frames of an MP3 of soundfile's begin (MPEG 2, 16 kHz), and the end."""
    kbits = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    places = [0]
    while places[-1] < len(data):
        third = data[places[-1] + 2]
        assert data[places[-1]] == 0xFF
        places.append(places[-1] + 72_000 * kbits[third >> 4] // RATE + (third >> 1 & 1))
    return places


def without_header_frame(mp3: bytes) -> bytes:
    """Return an MP3 as it comes out of a pipe: without the frame that names its length."""
    assert b"Xing" in mp3[:100] or b"Info" in mp3[:100]
    return mp3[mp3_frames(mp3)[1] :]


def ogg_pages(data: bytes) -> list[int]:
    """Return where the pages of an Ogg begin, and the end."""
    places = [0]
    while places[-1] < len(data):
        segments = data[places[-1] + 26]
        lengths = data[places[-1] + 27 : places[-1] + 27 + segments]
        places.append(places[-1] + 27 + segments + sum(lengths))
    return places


def begun_earlier(ogg: bytes, samples: int) -> bytes:
    """Return an Ogg whose pages say that they end so many samples earlier than they do."""
    places, pages = ogg_pages(ogg), []
    for start, end in itertools.pairwise(places):
        page = bytearray(ogg[start:end])
        (granule,) = struct.unpack_from("<q", page, 6)
        struct.pack_into("<qxxxxxxxxI", page, 6, granule - samples if granule else 0, 0)
        page[14:22] = ogg[start + 14 : start + 22]
        checksum = 0
        for byte in page:
            checksum ^= byte << 24
            for _ in range(8):
                checksum = checksum << 1 ^ (0x104C11DB7 if checksum >> 31 else 0)
        struct.pack_into("<I", page, 22, checksum)
        pages.append(bytes(page))
    return b"".join(pages)


def mutants(data: bytes, seed: int, count: int) -> list[bytes]:
    """Return damaged copies: bytes changed, numbers forged, stretches lost, doubled or moved."""
    rng = np.random.default_rng(seed)
    edges = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
    found = []
    for _ in range(count):
        new = bytearray(data)
        for _ in range(rng.integers(1, 6)):
            # Most of what matters stands at the beginning.
            top = len(new) if rng.random() < 0.4 else min(len(new), 200)
            place = int(rng.integers(0, max(1, top)))
            span = int(rng.integers(1, 1 + max(1, len(new) // 4)))
            change: Callable[[], bytes | bytearray] = [
                lambda p=place, n=new: n[:p] + bytes([rng.integers(256)]) + n[p + 1 :],
                lambda p=place, n=new: n[:p] + edges[rng.integers(4)] + n[p + 4 :],
                lambda p=place, n=new: n[:p],
                lambda p=place, n=new, s=span: n[:p] + n[p + s :],
                lambda p=place, n=new, s=span: n[:p] + n[p : p + s] + n[p:],
                lambda p=place, n=new: n[:p] + rng.bytes(50) + n[p:],
            ][rng.integers(6)]
            new = bytearray(change())
        found.append(bytes(new))
    return found
