"""What a file promises and what it gives: whole, or refused with a reason, in every container."""

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import audio_files as files
import numpy as np
import pytest
import soundfile
from audio_files import FRAMES, KINDS, RATE, encoded, noise, put, with_size

from qamro_cache.audio.check import look_at
from qamro_cache.audio.containers.source import Part
from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.audio.sound import BLOCK
from qamro_cache.errors import ClipError
from qamro_cache.identity import AudioPolicy

POLICY = AudioPolicy(RATE, RATE, RATE, tail="pad", rate_policy="as-is")
OPEN = 0xFFFFFFFF
SIZE = 4 * FRAMES
#: As floating point numbers these are small, and finite.
RUBBISH = bytes(value & 0x3F for value in np.random.default_rng(1).bytes(1000))


def decoded(path: Path) -> np.ndarray:
    windows = list(ClipDecoder(path, POLICY).windows())
    return np.concatenate([window.samples[: window.valid] for window in windows])


def outcome(path: Path) -> np.ndarray | str:
    """The sound, or why there is none; and the dry run must not say anything else."""
    found, said = attempt(decoded, path), attempt(look_at, path)
    if isinstance(said, ClipError):
        assert isinstance(found, ClipError)
        assert found.code == said.code
    if not isinstance(found, ClipError):
        return found
    assert str(path) in found.reason or found.code in ("empty", "too-short")
    assert "\n" not in found.reason
    return f"{found.code}: {found.reason.replace(str(path), '')}"


def attempt(call: Callable[[Path], Any], path: Path) -> Any:
    try:
        return call(path)
    except ClipError as error:
        return error


def plain(path: Path) -> np.ndarray:
    """The sound as libsndfile alone gives it, in blocks of the decoder's size."""
    blocks = []
    with soundfile.SoundFile(path) as file:
        size = BLOCK // file.channels
        while len(block := file.read(size, dtype="float32", always_2d=True)):
            blocks.append(block.mean(axis=1, dtype=np.float32))
    return np.concatenate(blocks)


ALL = [
    (container, subtype)
    for container in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(container)
    if container not in ("RAW", "SD2")  # without a header; in two files
]


@pytest.mark.parametrize(("container", "subtype"), ALL)
def test_a_sound_file_of_any_format_keeps_its_samples(
    tmp_path: Path, container: str, subtype: str
) -> None:
    path = tmp_path / "a.audio"
    for sound, rate in ((noise(), 16000), (noise(channels=1), 16000), (noise(channels=1), 8000)):
        try:
            soundfile.write(path, sound, rate, subtype, format=container)
            expected = plain(path)
            break
        except (soundfile.LibsndfileError, ValueError):
            continue
    else:
        pytest.skip("libsndfile cannot write and read it")
    np.testing.assert_array_equal(decoded(path), expected)
    assert look_at(path) is None


def streamed(kind: str, data: bytes) -> bytes | None:
    """The file as a pipe leaves it, which cannot go back to its header."""
    if kind == "mp3":
        return files.without_header_frame(data)
    if kind in ("vorbis", "opus"):
        return data
    if kind in ("flac", "rf64"):
        return with_size(data, kind, 0)
    if kind == "w64":
        return with_size(data, kind, 2**63 - 25)
    if kind == "caf":
        return with_size(data, kind, -1)
    return None if kind == "nist" else with_size(data, kind, OPEN)


def too_small(kind: str, data: bytes) -> bytes | None:
    if kind in ("vorbis", "opus"):
        return None
    if kind == "mp3":
        place = max(data.find(b"Xing"), data.find(b"Info"))
        return put(data, place + 8, struct.pack(">II", 5, 2000))
    return with_size(data, kind, 4000)


#: What comes of each kind of file: whole, twice (both parts), or refused with what is said.
#: Rubbish within plain samples is sound like any other; - where there is nothing to do.
SHORT, LONG, DAMAGED = "ends after ", "follow", "e"
TABLE = {
    # kind: cut in half, glued, rubbish inside, streamed, header too small
    "wav": (SHORT, "twice", "as long", "whole", LONG),
    "wav-float": (SHORT, "twice", "as long", "whole", LONG),
    "wav-adpcm": (SHORT, "twice", "as long", "whole", LONG),
    "wavex": (SHORT, "twice", "as long", "whole", LONG),
    "rf64": (SHORT, "twice", "as long", "whole", LONG),
    "w64": (SHORT, "twice", "as long", "whole", LONG),
    "aiff": (SHORT, "twice", "as long", "whole", LONG),
    "aifc": (SHORT, "twice", "as long", "whole", LONG),
    "au": (SHORT, "twice", "as long", "whole", LONG),
    "caf": (SHORT, "twice", "as long", "whole", LONG),
    "nist": (SHORT, LONG, "as long", "-", LONG),
    "flac": (SHORT, "twice", "is damaged", "whole", "whole"),
    "vorbis": (SHORT, "twice", "lacks Ogg pages", "whole", "-"),
    "opus": (SHORT, "twice", "lacks Ogg pages", "whole", "-"),
    "mp3": (SHORT, "twice", SHORT, "whole", "whole"),
}


@pytest.mark.parametrize("kind", TABLE)
def test_whole_or_refused(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(), kind)
    path = tmp_path / "whole.audio"
    path.write_bytes(data)
    whole = decoded(path)
    middle = len(data) // 2
    damaged = {
        "cut": data[:middle],
        "glued": data + data,
        "rubbish": put(data, middle, RUBBISH),
        "streamed": streamed(kind, data),
        "too small": too_small(kind, data),
    }
    for (name, content), expected in zip(damaged.items(), TABLE[kind], strict=True):
        if expected == "-":
            assert content is None or kind == "nist"
            continue
        assert content is not None
        path = tmp_path / f"{name}.audio"
        path.write_bytes(content)
        found = outcome(path)
        if expected not in ("whole", "twice", "as long"):
            assert isinstance(found, str), f"{name}: {len(found)} of {len(whole)} samples"
            assert found.startswith("unreadable: ")
            assert expected in found, name
            continue
        assert not isinstance(found, str), f"{name}: {found}"
        if expected == "as long":
            assert len(found) == len(whole)
        elif kind == "mp3" and name == "streamed":
            # Without the header frame nobody knows the encoder's delay, which is left in.
            np.testing.assert_array_equal(found[1105 : 1105 + len(whole) - 3000], whole[:-3000])
        else:
            np.testing.assert_array_equal(
                found, np.tile(whole, 2) if expected == "twice" else whole
            )


def found_in(folder: Path, content: bytes) -> np.ndarray | str:
    path = folder / "a.audio"
    path.write_bytes(content)
    return outcome(path)


@pytest.mark.parametrize("size", [0, OPEN, OPEN - 36, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
@pytest.mark.parametrize("kind", ["wav", "wavex", "wav-float", "aiff", "aifc", "au"])
def test_what_a_pipe_left_open_is_read_to_its_end(tmp_path: Path, kind: str, size: int) -> None:
    data = encoded(noise(), kind)
    whole = found_in(tmp_path, data)
    np.testing.assert_array_equal(found_in(tmp_path, with_size(data, kind, size)), whole)
    # Some servers send every sentence as a file of its own, one after the other.
    glued = with_size(data, kind, size) * 3
    np.testing.assert_array_equal(found_in(tmp_path, glued), np.tile(whole, 3))
    # Digital silence is no padding of an empty file.
    silent = with_size(encoded(0 * noise(), kind), kind, size)
    assert len(found_in(tmp_path, silent)) == FRAMES


@pytest.mark.parametrize("kind", ["w64", "caf", "rf64"])
def test_sizes_of_64_bits_left_open(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(), kind)
    whole = found_in(tmp_path, data)
    for size in (0, -1) if kind == "caf" else (0, 2**63 - 25, 2**64 - 1):
        opened = with_size(data, kind, size)
        np.testing.assert_array_equal(found_in(tmp_path, opened), whole)
        np.testing.assert_array_equal(found_in(tmp_path, opened * 2), np.tile(whole, 2))


def test_an_empty_file_is_empty_and_not_left_open(tmp_path: Path) -> None:
    for kind in ("wav", "aiff", "au", "w64"):
        found = found_in(tmp_path, encoded(noise(0), kind))
        assert isinstance(found, str)
        assert found.startswith("empty"), kind
    tagged = encoded(noise(0), "wav") + b"LIST" + struct.pack("<I", 12) + b"INFOISFT\0\0\0\0"
    assert str(found_in(tmp_path, tagged)).startswith("empty")


ID3V2 = b"ID3\4\0\0\0\0\1\0" + bytes(128)
TAILS = {
    "ID3v1": b"TAG" + bytes(range(125)),
    "APEv2": b"APETAGEX"
    + struct.pack("<IIII", 2000, 32 + 40, 1, 1 << 31 | 1 << 29)
    + bytes(8)
    + b"x" * 40
    + b"APETAGEX"
    + struct.pack("<IIII", 2000, 32 + 40, 1, 1 << 31)
    + bytes(8),
    "ID3v2": ID3V2,
    "Lyrics3": b"LYRICSBEGININD00002000000008LYRICS200",
    "zeros": bytes(777),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "w64", "caf", "flac", "vorbis", "mp3"])
def test_tags_and_padding_are_no_rubbish(tmp_path: Path, kind: str, tail: str) -> None:
    data = encoded(noise(), kind)
    whole = found_in(tmp_path, data)
    np.testing.assert_array_equal(found_in(tmp_path, data + TAILS[tail]), whole)
    if kind in ("flac", "mp3"):
        np.testing.assert_array_equal(found_in(tmp_path, ID3V2 + data + TAILS[tail]), whole)
        glued = found_in(tmp_path, (ID3V2 + data + TAILS[tail]) * 2)
        np.testing.assert_array_equal(glued, np.tile(whole, 2))
    if kind == "mp3":
        streamed = files.without_header_frame(data)
        expected = found_in(tmp_path, streamed)
        found = found_in(tmp_path, ID3V2 + streamed + TAILS[tail])
        np.testing.assert_array_equal(found, expected)


def test_chunks_after_the_sound(tmp_path: Path) -> None:
    for kind, order, names in (
        ("wav", "<", (b"LIST", b"id3 ", b"bext", b"abcd")),
        ("aiff", ">", (b"NAME", b"ID3 ", b"wxyz")),
    ):
        data = encoded(noise(), kind)
        whole = found_in(tmp_path, data)
        for name in names:
            chunk = name + struct.pack(f"{order}I", 33) + bytes(range(33)) + b"\0"
            np.testing.assert_array_equal(found_in(tmp_path, data + chunk), whole)
            np.testing.assert_array_equal(found_in(tmp_path, data + chunk * 2), whole)
    chunk = b"levl" + bytes.fromhex("f3acd3118cd100c04f8edb8a") + struct.pack("<Q", 64) + b"7" * 40
    data = encoded(noise(), "w64")
    whole = found_in(tmp_path, data)
    assert len(plain_of(tmp_path, data + chunk)) > len(whole), "libsndfile was mended"
    np.testing.assert_array_equal(found_in(tmp_path, data + chunk), whole)
    # An odd number of bytes, with the byte that evens it out and without.
    odd = encoded(noise(101, 1), "wav", 8000)
    odd = put(odd[:-1], 40, struct.pack("<I", 201))
    for tail in (b"\0LIST\4\0\0\0abcd", b"LIST\4\0\0\0abcd", b"\0", b""):
        assert len(found_in(tmp_path, odd + tail)) == 100


def plain_of(folder: Path, content: bytes) -> np.ndarray:
    path = folder / "plain.audio"
    path.write_bytes(content)
    return plain(path)


def test_the_count_of_an_aiff_is_a_promise_too(tmp_path: Path) -> None:
    data = encoded(noise(), "aiff")
    place = data.index(b"COMM") + 10
    found = found_in(tmp_path, put(data, place, struct.pack(">I", 2 * FRAMES)))
    assert (
        found == "unreadable:  ends after 1.50 s of 3.00 s; cut short: copy or make the file again"
    )
    whole = found_in(tmp_path, data)
    np.testing.assert_array_equal(found_in(tmp_path, put(data, place, bytes(4))), whole)


def test_parts_of_several_rates_are_not_one_clip(tmp_path: Path) -> None:
    for kind in ("wav", "flac", "vorbis", "mp3"):
        glued = encoded(noise(), kind, 16000) + encoded(noise(), kind, 24000)
        found = found_in(tmp_path, glued)
        assert str(found).startswith("unreadable"), kind
        assert isinstance(attempt(look_at, tmp_path / "a.audio"), ClipError), kind


# ---------------------------------------------------------------------------------------- MPEG


def mp3(mode: str, frames: int = FRAMES) -> bytes:
    # Without a level libsndfile does not look at the mode.
    return encoded(noise(frames), "mp3", bitrate_mode=mode, compression_level=0.5)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
def test_mp3_of_any_length_and_mode(tmp_path: Path, mode: str) -> None:
    # LAME pads to whole frames: the padding, which the decoder cuts off again, takes every size.
    for frames in range(FRAMES, FRAMES + 600, 47):
        data = mp3(mode, frames)
        assert len(found_in(tmp_path, data)) == frames
        sound = found_in(tmp_path, files.without_header_frame(data))
        assert len(sound) == 576 * (len(files.mp3_frames(data)) - 2)


def test_the_constant_rate_stream_has_libsndfiles_own_samples(tmp_path: Path) -> None:
    data = files.without_header_frame(mp3("CONSTANT"))
    expected = plain_of(tmp_path, data)
    found = found_in(tmp_path, data)
    assert 0 <= len(found) - len(expected) <= 1, "libsndfile's guess may lack one"
    np.testing.assert_array_equal(found[: len(expected)], expected)


def test_a_variable_stream_is_longer_than_the_decoder_guesses(tmp_path: Path) -> None:
    data = files.without_header_frame(mp3("VARIABLE"))
    expected = plain_of(tmp_path, data)
    found = found_in(tmp_path, data)
    assert len(expected) < len(found) - 5000, "the case is none"
    np.testing.assert_array_equal(found[: len(expected)], expected)
    glued = found_in(tmp_path, data * 3)
    assert len(glued) == 3 * len(found)


def test_what_lies_between_the_frames_of_an_mp3(tmp_path: Path) -> None:
    data = encoded(noise(), "mp3")
    places = files.mp3_frames(data)
    cut = places[len(places) // 2]
    whole = found_in(tmp_path, data)
    for damaged in (
        data[:cut] + RUBBISH + data[cut:],
        data[:cut] + data[places[len(places) // 2 + 1] :],
        data[:cut],
        data[: cut + 10],
        data[:-1],
    ):
        found = found_in(tmp_path, damaged)
        assert isinstance(found, str)
        assert "ends after" in found
    # Behind the last frame that was promised nothing is missing.
    np.testing.assert_array_equal(found_in(tmp_path, data + RUBBISH), whole)
    # Without a promise what comes behind may be what is left of more sound.
    streamed = files.without_header_frame(data)
    for damaged in (streamed + RUBBISH, streamed[:-1], streamed[:4000] + RUBBISH + streamed[4000:]):
        found = found_in(tmp_path, damaged)
        assert isinstance(found, str)
        assert "bytes that are none or are part of one" in found


def test_a_header_frame_that_counts_itself(tmp_path: Path) -> None:
    data = encoded(noise(), "mp3")
    place = max(data.find(b"Xing"), data.find(b"Info"))
    flags, frames, nbytes = struct.unpack_from(">III", data, place + 4)
    assert (flags & 3, nbytes) == (3, len(data))
    assert frames == len(files.mp3_frames(data)) - 2
    whole = found_in(tmp_path, data)
    found = found_in(tmp_path, put(data, place + 8, struct.pack(">I", frames + 1)))
    np.testing.assert_array_equal(found[: len(whole)], whole)
    lost = put(data, place + 8, struct.pack(">I", frames + 1))[: files.mp3_frames(data)[-2]]
    assert isinstance(found_in(tmp_path, lost), str)


def test_an_mp3_of_several_blocks_is_that_of_one(tmp_path: Path) -> None:
    """Between blocks the decoder must keep what earlier frames hold of later ones."""
    tone = 0.4 * np.sin(np.arange(2 * BLOCK + 9000) ** 2 * 1e-9 + np.arange(2 * BLOCK + 9000) / 9)
    path = tmp_path / "long.mp3"
    path.write_bytes(encoded(tone[:, None].astype(np.float32), "mp3"))
    at_once = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(decoded(path), at_once, rtol=0, atol=1e-6)


def test_a_header_frame_that_names_too_few_frames(tmp_path: Path) -> None:
    data = encoded(noise(), "mp3")
    place = max(data.find(b"Xing"), data.find(b"Info")) + 8
    whole = found_in(tmp_path, data)
    (frames,) = struct.unpack_from(">I", data, place)
    for named in (1, frames // 2, frames - 1):
        found = found_in(tmp_path, put(data, place, struct.pack(">I", named)))
        np.testing.assert_array_equal(found, whole)


def test_header_frames_of_other_writers(tmp_path: Path) -> None:
    for mode in ("CONSTANT", "VARIABLE"):
        data = mp3(mode)
        end = files.mp3_frames(data)[1]
        stream = data[end:]
        frames = len(files.mp3_frames(stream)) - 1
        expected = found_in(tmp_path, stream)
        assert len(expected) == 576 * frames
        numbers = {
            "nothing": struct.pack(">I", 0),
            "bytes": struct.pack(">II", 2, len(data)),
            "frames": struct.pack(">II", 1, frames),
        }
        for name, named in numbers.items():
            tag = (data[:21] + b"Xing" + named).ljust(end, b"\0")
            found = found_in(tmp_path, tag + stream)
            # Where the frames are counted the decoder cuts its own delay off.
            np.testing.assert_array_equal(found, expected[529 if name == "frames" else 0 :])
            cut = tag + stream[: files.mp3_frames(stream)[-2]]
            assert isinstance(found_in(tmp_path, cut), str) == (name != "nothing")
        # Fraunhofer's is sound to the decoder: one silent frame.
        tag = data[:4] + bytes(32) + b"VBRI" + struct.pack(">HHHII", 1, 0, 75, len(data), frames)
        found = found_in(tmp_path, tag.ljust(end, b"\0") + stream)
        assert len(found) == 576 * (frames + 1)
        assert np.abs(found[:500]).max() < 1e-6
        plainly = plain_of(tmp_path, tag.ljust(end, b"\0") + stream)
        np.testing.assert_array_equal(found[: len(plainly)], plainly)
        assert isinstance(found_in(tmp_path, tag.ljust(end, b"\0") + stream[:-1]), str)


def test_what_stands_before_the_first_frame(tmp_path: Path) -> None:
    data = encoded(noise(), "mp3")
    stream = files.without_header_frame(data)
    for before in (ID3V2 + bytes(100), ID3V2 + RUBBISH[:50], ID3V2 * 3):
        for sound in (data, stream):
            expected = found_in(tmp_path, sound)
            np.testing.assert_array_equal(found_in(tmp_path, before + sound), expected)
            assert isinstance(found_in(tmp_path, before + sound[:-1]), str)
    # A bitrate that there is not, in the first of the frames.
    broken = found_in(tmp_path, stream[:2] + bytes([stream[2] | 0xF0]) + stream[3:])
    assert isinstance(broken, str)


def test_a_size_that_is_wrong_by_less_than_a_frame(tmp_path: Path) -> None:
    for kind in ("wav", "aiff", "au", "w64"):
        data = encoded(noise(), kind)
        for size in (SIZE + 1, SIZE + 3):
            assert len(found_in(tmp_path, with_size(data, kind, size))) == FRAMES
        assert isinstance(found_in(tmp_path, with_size(data, kind, SIZE + 4)), str)


PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")


def test_samples_shorter_than_their_place(tmp_path: Path) -> None:
    """24 bits in 4 bytes are read where the header says that they are 32, of which 24 count."""
    sound = 0.5 * noise()[:, :1]
    samples = np.round(sound * 2.0**23).astype("<i4")
    kinds = {"plain": (1, 24, False), "odd": (0xFFFE, 24, False), "valid": (0xFFFE, 32, True)}
    for name, (codec, bits, upper) in kinds.items():
        more = struct.pack("<HHI", 22, 24, 4) + PCM_GUID if codec > 1 else b""
        fmt = struct.pack("<HHIIHH", codec, 1, RATE, 4 * RATE, 4, bits) + more
        raw = (samples << 8 if upper else samples).tobytes()
        body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
        body += b"data" + struct.pack("<I", len(raw)) + raw
        path = tmp_path / f"{name}.wav"
        path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
        if upper:
            np.testing.assert_allclose(decoded(path), sound[:, 0], atol=1e-6)
            continue
        with pytest.raises(ClipError, match="samples of 24 bits in 4 bytes"):
            decoded(path)


def test_mpeg_within_a_wav(tmp_path: Path) -> None:
    stream = files.without_header_frame(mp3("VARIABLE"))
    expected = found_in(tmp_path, stream)
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 2, RATE, 8000, 1, 0, 12, 1, 2, 576, 1, 1393)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data"
    for size in (len(stream), OPEN):
        wav = b"RIFF" + struct.pack("<I", 4 + len(head) + len(stream)) + head
        found = found_in(tmp_path, wav + struct.pack("<I", size) + stream)
        np.testing.assert_array_equal(found, expected)
        found = found_in(tmp_path, wav + struct.pack("<I", size) + stream[:-100])
        assert isinstance(found, str)


def test_a_decoder_that_stops_early_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All frames of the MP3 are there, but libsndfile gives up where the channels change."""
    mono, stereo = (
        files.without_header_frame(encoded(noise(channels=channels), "mp3")) for channels in (1, 2)
    )
    for content in (mono + stereo, stereo + mono):
        found = found_in(tmp_path, content)
        assert isinstance(found, str)
        assert "ends after 1.58 of 3.17 s" in found
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(noise(), "wav"))
    part = Part(0, path.stat().st_size, FRAMES + RATE)
    monkeypatch.setattr("qamro_cache.audio.open.promised_parts", lambda data: (part,))
    assert "of 2.50 s the decoder finds 1.50 s" in str(outcome(path))
    with pytest.raises(ClipError):
        look_at(path)


# ------------------------------------------------------------------------------------ FLAC, Ogg


def test_lengths_of_a_flac(tmp_path: Path) -> None:
    data = encoded(noise(), "flac")
    whole = found_in(tmp_path, data)
    for total in (0, 1, 1000, 4096, FRAMES - 1):
        mended = with_size(data, "flac", total)
        np.testing.assert_array_equal(found_in(tmp_path, mended), whole)
        np.testing.assert_array_equal(found_in(tmp_path, mended * 2), np.tile(whole, 2))
        assert isinstance(found_in(tmp_path, mended[:-3]), str)
        assert isinstance(found_in(tmp_path, mended[: len(data) // 2]), str)
    found = found_in(tmp_path, with_size(data, "flac", 2 * FRAMES))
    assert found == "unreadable:  ends after 1.50 of 3.00 s; cut short: copy or make the file again"
    short = encoded(noise(100), "flac")
    assert len(found_in(tmp_path, with_size(short, "flac", 0))) == 100
    # A stream whose frames vary in size numbers them by samples.
    assert len(found_in(tmp_path, with_size(encoded(noise(4096 * 300, 1), "flac"), "flac", 0)))


def flac_frames(data: bytes) -> list[int]:
    """Where the frames begin, found by their numbers: those of a frame's size, below 128."""
    places = [data.index(b"\xff\xf8")]
    while (place := data.find(b"\xff\xf8", places[-1] + 2)) >= 0:
        if data[place + 4] == len(places) and data[place + 3] == data[places[0] + 3]:
            places.append(place)
        else:
            data = data[:place] + b"\0\0" + data[place + 2 :]
    return places


def test_frames_that_a_flac_lost(tmp_path: Path) -> None:
    """The decoder fills in silence for them, or what came before."""
    data = encoded(noise(30 * 4096, 1), "flac")
    places = flac_frames(data)
    assert len(places) == 30
    assert len(found_in(tmp_path, data)) == 30 * 4096
    in_the_middle = data[: places[10]] + data[places[13] :]
    assert found_in(tmp_path, in_the_middle) == (
        "unreadable:  lacks frames after 2.56 of 7.68 s, which would be silent; "
        "copy or make the file again"
    )
    cut = data[: places[0]] + data[places[10] :]
    # Wherever the decoder is asked for, it would look for the numbers of frames that are not there.
    for piece in (cut, with_size(cut, "flac", 0)):
        said = found_in(tmp_path, piece)
        assert isinstance(said, str)
        assert "has 5.12 of 7.68 s and no beginning" in said
    assert isinstance(found_in(tmp_path, with_size(in_the_middle, "flac", 0)), str)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_pages_of_an_ogg(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(6 * FRAMES), kind)
    pages = files.ogg_pages(data)
    assert len(pages) > 6
    whole = found_in(tmp_path, data)
    middle, after = pages[len(pages) // 2], pages[len(pages) // 2 + 1]
    flipped = put(data, middle + 200, bytes([data[middle + 200] ^ 1]))
    for damaged, said in (
        (data[:middle], "without its last Ogg page"),
        (data[: pages[-2]], "without its last Ogg page"),
        (data[:-1], "without its last Ogg page"),
        (data[:middle] + data[after:], "lacks Ogg pages"),
        (data[: pages[2]] + data[pages[3] :], "lacks Ogg pages"),
        (flipped, "lacks Ogg pages"),
        (data[:middle] + data, "without its last Ogg page"),
        (data[: pages[1] - 1], "no whole Ogg page"),
    ):
        found = found_in(tmp_path, damaged)
        assert isinstance(found, str)
        assert said in found
    # The pages say themselves where they are, so that nothing is lost.
    np.testing.assert_array_equal(
        found_in(tmp_path, data[:middle] + RUBBISH + data[middle:]), whole
    )
    np.testing.assert_array_equal(found_in(tmp_path, data + RUBBISH), whole)
    np.testing.assert_array_equal(found_in(tmp_path, data * 3), np.tile(whole, 3))


def test_an_ogg_whose_length_is_rounded_is_whole(tmp_path: Path) -> None:
    """As of a stream that was copied from Matroska; a page that is missing is another matter."""
    data = encoded(noise(), "vorbis")
    whole = found_in(tmp_path, data)
    last = files.ogg_pages(data)[-2]
    found = [
        found_in(tmp_path, data[:last] + files.begun_earlier(data[last:], -more))
        for more in range(0, 3000, 40)
    ]
    read = [sound for sound in found if not isinstance(sound, str)]
    # The encoder fills its last block up; 10 ms more than what it holds are let pass.
    most = max(map(len, read))
    assert len(whole) < most
    assert len(read) - 1 == (most + RATE // 100 - len(whole)) // 40
    for more, sound in zip(range(0, 3000, 40), read, strict=False):
        assert len(sound) == min(len(whole) + more, most)
        np.testing.assert_array_equal(sound[: len(whole)], whole)
    assert all("cut short or damaged" in str(said) for said in found[len(read) :])


@pytest.mark.parametrize(("rate", "channels"), [(16000, 2), (44100, 1)])
def test_a_vorbis_piece_that_was_cut_without_decoding(
    tmp_path: Path, rate: int, channels: int
) -> None:
    """The decoder takes the samples that are to be left out from the middle and the end."""
    data = encoded(noise(3 * rate, channels), "vorbis", rate)
    whole = found_in(tmp_path, data)
    # A program that counts from elsewhere says nothing of the sound.
    np.testing.assert_array_equal(found_in(tmp_path, files.begun_earlier(data, -50_000)), whole)
    for samples in (1, 999, 12_000):
        cut = files.begun_earlier(data, samples)
        wrong = plain_of(tmp_path, cut)
        assert not np.array_equal(wrong, whole[samples:]), "libsndfile was mended"
        said = f"has {samples / rate:.2f} s before its beginning"
        assert said in str(found_in(tmp_path, cut))
        assert said in str(found_in(tmp_path, data + cut))


def test_an_opus_that_counts_from_elsewhere(tmp_path: Path) -> None:
    """As copied from WebM: without the encoder's delay, and the same behind the first block."""
    data = encoded(noise(BLOCK + 4000, 1), "opus")
    whole = found_in(tmp_path, data)
    assert len(whole) == BLOCK + 4000
    for samples in (-648, -480_000):
        found = found_in(tmp_path, files.begun_earlier(data, samples))
        np.testing.assert_array_equal(found, whole)


# ------------------------------------------------------------------------- from other programs

PIPED = {
    "wav": ["-f", "wav"],
    "w64": ["-f", "w64"],
    "aiff": ["-f", "aiff"],
    "au": ["-f", "au"],
    "caf": ["-f", "caf"],
    "rf64": ["-f", "wav", "-rf64", "always"],
    "flac": ["-f", "flac"],
    "adpcm": ["-f", "wav", "-c:a", "adpcm_ima_wav"],
    "mp2": ["-f", "mp2"],
    "mp3": ["-f", "mp3", "-b:a", "64k"],
    "vbr": ["-f", "mp3", "-q:a", "2"],
    "ogg": ["-f", "ogg", "-c:a", "libvorbis"],
    "opus": ["-f", "opus", "-c:a", "libopus"],
    "wav of mp3": ["-f", "wav", "-c:a", "libmp3lame", "-q:a", "2"],
}


#: Codec of ffmpeg -> the format's number. ffmpeg makes the format extensible for float, and for
#: all at high rates.
W64_CODECS = {
    "pcm_u8": 1, "pcm_s16le": 1, "pcm_s24le": 1, "pcm_s32le": 1, "pcm_f32le": 3, "pcm_f64le": 3,
    "pcm_alaw": 6, "pcm_mulaw": 7,
}  # fmt: skip


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("codec", W64_CODECS)
def test_an_extensible_w64_is_read_as_what_it_holds(tmp_path: Path, codec: str) -> None:
    soundfile.write(tmp_path / "in.wav", noise(FRAMES, 1), 96000, "FLOAT")
    call = ["ffmpeg", "-loglevel", "error", "-i", str(tmp_path / "in.wav"), "-c:a", codec]
    for container in ("w64", "wav"):
        subprocess.run([*call, "-f", container, str(tmp_path / container)], check=True)
    data = (tmp_path / "w64").read_bytes()
    place = data.index(b"fmt ") + 24
    assert data[place : place + 2] == b"\xfe\xff", "the case is none"
    assert data[place + 24] == W64_CODECS[codec]
    expected = decoded(tmp_path / "wav")
    assert len(expected) == FRAMES
    np.testing.assert_array_equal(found_in(tmp_path, data), expected)
    np.testing.assert_array_equal(found_in(tmp_path, data * 2), np.tile(expected, 2))
    np.testing.assert_array_equal(found_in(tmp_path, with_size(data, "w64", 0)), expected)
    assert isinstance(found_in(tmp_path, data[:-9]), str)
    # A codec that is no list of numbers.
    said = found_in(tmp_path, put(data, place + 24, b"\2"))
    assert "is a W64 whose sound is coded in a way (2) that cannot be read here" in str(said)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("name", PIPED)
def test_what_ffmpeg_writes_into_a_pipe_and_into_a_file(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "in.wav", noise(2 * FRAMES), RATE)
    call = ["ffmpeg", "-loglevel", "error", "-i", str(tmp_path / "in.wav"), *PIPED[name]]
    piped = subprocess.run([*call, "-"], stdout=subprocess.PIPE, check=True).stdout
    subprocess.run([*call, str(tmp_path / "file")], check=True)
    found = found_in(tmp_path, piped)
    filed = found_in(tmp_path, (tmp_path / "file").read_bytes())
    assert not isinstance(found, str), found
    assert not isinstance(filed, str), filed
    exact = name not in ("mp2", "mp3", "vbr", "wav of mp3", "adpcm")
    for sound in (found, filed):
        # Encoders that work in blocks pad the last one, and mpeg has a delay before the first.
        assert 0 <= len(sound) - 2 * FRAMES <= (0 if exact else 3 * 1152)
    assert isinstance(found_in(tmp_path, (tmp_path / "file").read_bytes()[:-777]), str)


# -------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", KINDS)
def test_no_part_is_lost_without_a_word(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(6000), kind)
    whole = found_in(tmp_path, data)
    rng = np.random.default_rng(3)
    for _ in range(40):
        first, last = sorted(rng.integers(0, len(data), 2).tolist())
        for damaged in (data[:last], data[:first] + data[last:]):
            found = found_in(tmp_path, damaged)
            # What is lost may be padding, or a name within the header.
            assert isinstance(found, str) or len(found) == len(whole), (first, last)
        for damaged in (data + data[first:last], data[:last] + data[first:]):
            found = found_in(tmp_path, damaged)
            assert isinstance(found, str) or len(found) >= len(whole), (first, last)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_bytes_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(3000), kind)
    for content in (*files.mutants(data, 7, 40), *files.mutants(data * 2, 8, 10)):
        found_in(tmp_path, content)


def test_many_small_things_do_not_take_for_ever(tmp_path: Path) -> None:
    head = encoded(noise(10), "wav")[:36]
    flac = encoded(noise(10), "flac")
    for content in (
        head + b"JUNK\0\0\0\0" * 200_000,
        head + b"data" + struct.pack("<I", 8) + bytes(8) + b"JUNK\0\0\0\0" * 200_000,
        flac + b"\xff\xf8" * 1_000_000,
        b"OggS" * 500_000,
        b"ID3\4\0\0\0\0\0\0" * 200_000,
        b"\xff\xf3\x14\xc4" + bytes(2_000_000),
    ):
        found_in(tmp_path, content)
    # A hundred thousand WAVs, one after the other.
    one = encoded(noise(1), "wav")
    assert len(found_in(tmp_path, one * 2000)) == 2000


def test_a_file_that_shrinks_while_it_is_walked(tmp_path: Path) -> None:
    from qamro_cache.audio.open import open_regular, parts_of

    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(noise(20 * FRAMES), "mp3"))
    with open_regular(path) as handle:
        os.truncate(path, 100)
        with pytest.raises(ClipError):
            parts_of(handle, path)
