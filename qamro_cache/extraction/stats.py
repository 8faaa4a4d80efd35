"""What an extraction has done so far, and how fast each stage was."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qamro_cache.audio.check import Oddity

#: Least time between two calls of ``on_move``.
SECONDS_A_MOVE = 1.0


@dataclass
class Stats:
    """Counters of one run; every stage adds to them.

    Attributes:
        clips_total: clips of the dataset (or of this shard).
        clips_reused: found done when the run started.
        clips_done: finished by this run, failures included.
        clips_begun: of the unit at work, what of its clips is encoded; 1.5 is a clip and a half.
        failed: of those, what cannot be used.
        odd: clips whose level is odd, by what is odd: how many, and the first names.
        windows: encoded.
        audio_seconds: decoded.
        decode_seconds: of work, summed over the decoding threads.
        encode_seconds: in the encoder.
        wait_seconds: in which an encoder had no batch to work on.
        write_seconds: of writing shards.
        encoders: that work at once.
        workers: decoding threads, of all encoders together.
        on_move: called with these counters now and then while a long unit is at work.
    """

    clips_total: int = 0
    clips_reused: int = 0
    clips_done: int = 0
    clips_begun: float = 0.0
    failed: int = 0
    odd: dict[Oddity, tuple[int, list[str]]] = field(default_factory=dict)
    windows: int = 0
    audio_seconds: float = 0.0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    wait_seconds: float = 0.0
    write_seconds: float = 0.0
    encoders: int = 1
    workers: int = 1
    started: float = field(default_factory=time.monotonic)
    on_move: Callable[["Stats"], None] | None = field(default=None, repr=False)
    _moved: float = field(default_factory=time.monotonic, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_lock": None, "on_move": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def add(self, **amounts: float) -> None:
        """Add to counters, from any thread."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def count_odd(self, oddity: Oddity, names: list[str], count: int = 1) -> None:
        """Count clips whose level is odd, and keep the first names."""
        with self._lock:
            before, known = self.odd.get(oddity, (0, []))
            self.odd[oddity] = before + count, [*known, *names][:3]

    def move(self, clips_begun: float) -> None:
        """Say how far the unit at work is; whoever watches is told once a second at most."""
        self.clips_begun = clips_begun
        now = time.monotonic()
        if self.on_move is not None and now - self._moved >= SECONDS_A_MOVE:
            self._moved = now
            self.on_move(self)

    def merge(self, other: "Stats") -> None:
        """Add the work of another process."""
        seconds = ("audio_seconds", "decode_seconds", "encode_seconds", "wait_seconds")
        work = ("clips_done", "failed", "windows", *seconds)
        self.add(**{name: getattr(other, name) for name in work})
        for oddity, (count, names) in other.odd.items():
            self.count_odd(oddity, names, count)

    @property
    def elapsed(self) -> float:
        """Seconds since the run started."""
        return time.monotonic() - self.started

    @property
    def clips_per_second(self) -> float:
        """Clips a second of this run, with what is done of those at work."""
        return (self.clips_done + self.clips_begun) / max(self.elapsed, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time left; None before anything is done."""
        done = self.clips_done + self.clips_begun
        left = self.clips_total - self.clips_reused - done
        return left / self.clips_per_second if done else None

    @property
    def wait_share(self) -> float:
        """Share of the time in which the encoders waited for audio, 0 to 1."""
        busy = self.encode_seconds + self.wait_seconds
        return self.wait_seconds / busy if busy > 0 else 0.0

    def figures(self) -> dict[str, float]:
        """Return the throughput of each stage, as the summary and ``--json`` show it."""
        per = {
            "decode_clips_per_second_per_worker": (self.clips_done, self.decode_seconds),
            "encode_windows_per_second_per_encoder": (self.windows, self.encode_seconds),
            "audio_seconds_per_second": (self.audio_seconds, self.elapsed),
            "clips_per_second": (self.clips_done, self.elapsed),
        }
        figures = {name: amount / time if time else 0.0 for name, (amount, time) in per.items()}
        return figures | {
            "encoder_wait_share": self.wait_share,
            "write_seconds": self.write_seconds,
            "elapsed_seconds": self.elapsed,
        }
