"""Whether compiling an encoder pays: by how fast it has been so far, and what is left to do."""

import logging

from qamro_cache.encoders.runner import Runner
from qamro_cache.extraction.stats import Stats

#: What compiling takes, and how many times faster a network is then: HTS-AT in half precision on an
#: H100, 40 s, 2,900 windows/s without and 4,900 with (benchmarks/results/encode-cuda.json). In
#: float32, not measured, products take most of the time and stay what they were.
COMPILE_SECONDS = 50.0
SPEEDUP = {"float16": 1.4, "bfloat16": 1.4, "tf32": 1.2, "float32": 1.2}
#: Seconds of work that show how fast it goes.
STRETCH = 5.0
#: Share of the time in which an encoder waits for audio, from which it need not be faster.
WAITS = 0.1
COUNTED = ("clips_done", "windows", "encode_seconds", "wait_seconds")

logger = logging.getLogger("qamro_cache")


def seconds_saved(work: Stats, clips_left: int, speedup: float) -> float:
    """Return the seconds that a compiled encoder would take less; 0 where it waits for audio.

    Args:
        work: clips, windows and seconds of a while, by the encoder as it is.
        clips_left: to be encoded.
        speedup: times that it is faster when compiled.
    """
    if work.wait_share > WAITS:
        return 0.0
    return clips_left * work.encode_seconds / max(1, work.clips_done) * (1 - 1 / speedup)


class Compiling:
    """Has a runner compile its encoder once it is clear that this pays.

    Args:
        runner: of the encoder.
        batch_size: windows of a full batch.
        clips: to be encoded in all.
    """

    def __init__(self, runner: Runner, batch_size: int, clips: int) -> None:
        self.runner, self.batch_size, self.clips_left = runner, batch_size, clips
        self._open, self._told = runner.compilable, False
        self._stats = self._work = Stats()
        self._before: dict[str, float] = {}

    def note(self, clips: int, stats: Stats) -> None:
        """Take note of clips that are done now, and decide when a stretch of work is.

        A run's first clips find everything cold, and only begin the stretch.
        """
        self.clips_left -= clips
        now = {name: getattr(stats, name) for name in COUNTED}
        if stats is self._stats:
            self._work.add(**{name: now[name] - self._before[name] for name in COUNTED})
        self._stats, self._before = stats, now
        if self._open and self._work.encode_seconds + self._work.wait_seconds >= STRETCH:
            self._decide(self._work)
            self._work = Stats()

    def _decide(self, work: Stats) -> None:
        spec = self.runner.encoder.spec
        saved = seconds_saved(work, self.clips_left, SPEEDUP.get(spec.precision, 1.0))
        if pays := saved > COMPILE_SECONDS:
            self._open = False
            self.runner.compile(self.batch_size)
        if pays or not self._told:
            self._told = True
            logger.info(
                "encoder %s is %scompiled: that takes about %.0f s and saves %.0f s of the %s "
                "clips left, at %.0f windows/s, %.0f %% of the time waiting for audio",
                spec.name,
                "" if pays else "not ",
                COMPILE_SECONDS,
                saved,
                f"{self.clips_left:,}",
                work.windows / max(work.encode_seconds, 1e-9),
                100 * work.wait_share,
            )
