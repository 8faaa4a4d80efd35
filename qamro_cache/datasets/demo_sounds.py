"""The sounds of the demo set: contents and degradations, all made by a program."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

RATE = 16000
SECONDS = 3.0

Wave = npt.NDArray[np.float64]
Degrade = Callable[[Wave, float, np.random.Generator], Wave]


def _time() -> Wave:
    return np.arange(int(RATE * SECONDS)) / RATE


def _level(samples: Wave) -> Wave:
    return samples * (0.1 / max(1e-9, float(np.sqrt(np.mean(samples**2)))))


def _filter(samples: Wave, gain: Callable[[Wave], Wave]) -> Wave:
    """Apply a gain over frequency (Hz) to the whole clip."""
    spectrum = np.fft.rfft(samples)
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(len(samples), 1 / RATE)), len(samples))


def _voice(pitch: float, pace: float) -> Callable[[np.random.Generator], Wave]:
    """Speech-like: a gliding buzz through changing vowel resonances, in syllables."""

    def make(rng: np.random.Generator) -> Wave:
        t = _time()
        out = np.zeros_like(t)
        syllables = int(SECONDS * pace)
        glide = pitch * (1 + 0.15 * np.sin(2 * np.pi * 0.6 * t + rng.uniform(0, 6)))
        phase = 2 * np.pi * np.cumsum(glide) / RATE
        buzz = sum((np.sin(k * phase) / k for k in range(1, int(7000 / pitch))), np.zeros_like(t))
        for start in np.linspace(0.05, SECONDS - 0.3, syllables):
            formants = rng.uniform([300, 900, 2200], [800, 2000, 3200])
            length = rng.uniform(0.6, 0.9) / pace
            bump = np.where(
                (t > start) & (t < start + length), np.sin(np.pi * (t - start) / length), 0.0
            )

            def vowel(f: Wave, formants: Wave = formants) -> Wave:
                peaks = [1 / (1 + ((f - center) / 120) ** 2) for center in formants]
                return np.asarray(sum(peaks, np.zeros_like(f)) + 0.02)

            hiss = 0.05 * rng.normal(size=t.size) * (rng.uniform() < 0.4)
            out += _filter((buzz + hiss) * bump, vowel)
        return _level(out)

    return make


def _music(root: float, tempo: float, drums: bool) -> Callable[[np.random.Generator], Wave]:
    """Music-like: plucked chords, with or without a beat."""

    def make(rng: np.random.Generator) -> Wave:
        t = _time()
        out = np.zeros_like(t)
        for beat in np.arange(0.0, SECONDS, 60 / tempo):
            age = np.clip(t - beat, 0, None)
            on = t >= beat
            chord = rng.choice([(0, 4, 7), (0, 3, 7), (5, 9, 12), (7, 11, 14)])
            for step in chord:
                f = root * 2 ** (step / 12)
                for k in range(1, 7):
                    if k * f < 7000:
                        out += on * np.exp(-age * (2 + k)) * np.sin(2 * np.pi * k * f * age) / k
            if drums:
                out += on * 0.8 * np.exp(-age * 40) * rng.normal(size=t.size)
                out += on * 1.5 * np.exp(-age * 15) * np.sin(2 * np.pi * 60 * age)
        return _level(out)

    return make


def _noise(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    return samples + rng.normal(0.0, 0.05 * severity, samples.size)


def _hum(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    t = _time()
    phase = rng.uniform(0, 6)
    hum = np.zeros_like(t)
    for k in (1, 2, 3, 5):
        hum += np.sin(2 * np.pi * 50 * k * t + phase * k) / k
    return samples + 0.05 * severity * hum


def _clip(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    limit = float(np.quantile(np.abs(samples), 1 - 0.45 * severity))
    return _level(np.clip(samples, -limit, limit))


def _low_pass(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    cutoff = 3000 * (1 - severity) + 500
    return _level(_filter(samples, lambda f: 1 / (1 + (f / cutoff) ** 8)))


def _reverb(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    t = _time()
    tail = rng.normal(size=t.size) * np.exp(-t / (0.1 + 0.3 * severity)) * 0.06 * severity
    tail[0] = 1.0
    size = 2 * t.size
    return _level(
        np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)[: t.size]
    )


def _dropouts(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    out = samples.copy()
    for start in rng.integers(0, samples.size, int(25 * severity)):
        out[start : start + int(0.04 * RATE)] = 0.0
    return out


def _coarse(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    step = 0.02 + 0.1 * severity
    return np.asarray(np.round(samples / step) * step)


def _codec(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    """Keep only the strongest bins of each frame, as a starved codec does."""
    size, hop = 512, 256
    window = np.hanning(size + 1)[:-1]
    padded = np.pad(samples, size)
    out = np.zeros_like(padded)
    for start in range(0, padded.size - size, hop):
        spectrum = np.fft.rfft(padded[start : start + size] * window)
        keep = np.abs(spectrum) >= np.quantile(np.abs(spectrum), 0.5 + 0.47 * severity)
        out[start : start + size] += np.fft.irfft(spectrum * keep, size)
    return _level(out[size:-size])


def _wobble(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    t = _time()
    shift = 0.004 * severity * np.sin(2 * np.pi * 4 * t + rng.uniform(0, 6))
    return np.asarray(np.interp(t + shift, t, samples))


def _clean(samples: Wave, severity: float, rng: np.random.Generator) -> Wave:
    return samples + rng.normal(0.0, 0.0005, samples.size)


#: System: how it damages a clip, and how many points its worst costs.
SYSTEMS: tuple[tuple[str, Degrade, float], ...] = (
    ("clean", _clean, 0.2),
    ("wobble", _wobble, 1.5),
    ("hum", _hum, 1.5),
    ("reverb", _reverb, 2.0),
    ("lowpass", _low_pass, 2.2),
    ("clipping", _clip, 2.6),
    ("codec", _codec, 3.0),
    ("dropouts", _dropouts, 3.2),
    ("noise", _noise, 3.4),
    ("coarse", _coarse, 3.7),
)

#: Content: its prompt, how it is made, and how pleasant it is by itself (1 to 5).
CONTENTS: tuple[tuple[str, str, Callable[[np.random.Generator], Wave], float], ...] = (
    ("voice1", "a low synthetic voice, slow", _voice(95, 3), 2.8),
    ("music1", "calm synthetic plucked chords", _music(196, 60, False), 4.4),
    ("voice2", "a high synthetic voice, fast", _voice(220, 6), 2.4),
    ("music2", "fast synthetic chords with drums", _music(262, 140, True), 3.6),
    ("voice3", "a middle synthetic voice", _voice(150, 4), 3.0),
    ("music3", "low synthetic chords with drums", _music(110, 90, True), 3.8),
    ("voice4", "a low synthetic voice, hurried", _voice(110, 7), 2.2),
    ("music4", "high synthetic plucked notes", _music(392, 100, False), 4.0),
    ("voice5", "a high synthetic voice, slow", _voice(240, 3), 2.6),
    ("music5", "slow synthetic chords with drums", _music(165, 70, True), 3.9),
    ("voice6", "a middle synthetic voice, fast", _voice(130, 5), 2.7),
    ("music6", "quick synthetic plucked chords", _music(220, 120, False), 4.1),
)
