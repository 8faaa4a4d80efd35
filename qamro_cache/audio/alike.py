"""Which clips sound alike: fingerprints compared, many by many.

A pair is first compared coarsely, all pairs of two sets by a few matrix products; what comes close
there is compared frame by frame. The thresholds were set on the two real sets of the tests: copies
(FLAC, Vorbis and MP3 files, starts trimmed by up to 0.4 s, other levels) reach .91 and more, clips
of other songs and sentences .34 at most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qamro_cache.audio.fingerprint import BANDS, STEPS, Bytes, Floats, frames_of

#: Concordance from which two clips are called alike.
ALIKE = 0.85
#: Frames by which one of two clips may start later (0.48 s), and that both must have (0.8 s):
#: shorter sounds are alike by chance.
SHIFT, SHORTEST = 24, 40
#: Decibels below a clip's loudest band that are heard: what lies deeper is a codec's noise.
_DEPTH = 60
#: Frames of a coarse one, correlation from which a pair is looked at closely, and how many pairs
#: a clip: the first of them that is alike ends the search.
_COARSE, _CLOSE, _MOST = 8, 0.7, 20
#: Pairs that are compared at once.
_PAIRS = 1 << 22

Bools = npt.NDArray[np.bool_]


def similarity(one: Floats, other: Floats) -> float:
    """Return how alike two clips are, 1 at most: their concordance at the best shift.

    Lin's concordance correlation (1989) over frames and bands: 2 s_xy / (s_xx + s_yy + d^2), where
    s are moments within bands and d are the differences of the bands' means. Each frame's level is
    taken away first: any two sounds that die away are alike in level.

    Args:
        one: [T, BANDS], as `frames_of` returns them.
        other: [U, BANDS].

    Returns:
        -1 where fewer than SHORTEST frames overlap; 0 for sounds that do not change.
    """
    x, y = _pattern(one).astype(np.float64), _pattern(other).astype(np.float64)
    products = x @ y.T
    (sum_x, square_x), (sum_y, square_y) = _running(x), _running(y)
    best = -1.0
    for shift in range(-SHIFT, SHIFT + 1):
        i, j = max(shift, 0), max(-shift, 0)
        n = min(len(x) - i, len(y) - j)
        if n < SHORTEST:
            continue
        a, b = sum_x[i + n] - sum_x[i], sum_y[j + n] - sum_y[j]
        xx = square_x[i + n] - square_x[i] - a @ a / n
        yy = square_y[j + n] - square_y[j] - b @ b / n
        xy = products[i : i + n, j : j + n].trace() - a @ b / n
        means = (a - b) / n
        whole = xx + yy + n * np.square(means).sum()
        # Frames that differ by less than a step are those of a sound that does not change.
        moving = min(xx, yy) > n * BANDS
        best = max(best, 2 * xy / whole if moving else 0.0)
    return float(best)


def comparable(fingerprint: Bytes) -> bool:
    """Whether a fingerprint is known, of the kind that is compared here, and long enough."""
    frames = frames_of(fingerprint)
    return frames is not None and len(frames) >= SHORTEST


def find_alike(
    ours: Sequence[Bytes],
    theirs: Sequence[Bytes],
    may: Callable[[npt.NDArray[np.int64]], Bools] | None = None,
) -> npt.NDArray[np.int64]:
    """Find for each of our clips one of theirs that it sounds like.

    Args:
        ours: A fingerprints.
        theirs: B fingerprints.
        may: rows of ours -> [rows, B] which of theirs each is compared with; None: with all.

    Returns:
        [A] the row of theirs; -1 where none is alike, or the fingerprint is not known.
    """
    mine, other = _coarse(ours), _coarse(theirs)
    found = np.full(len(ours), -1, np.int64)
    if not len(mine.rows) or not len(other.rows):
        return found
    step = max(1, _PAIRS // len(other.rows))
    for start in range(0, len(mine.rows), step):
        block = slice(start, start + step)
        close = _correlations(mine, block, other)
        rows = mine.rows[block]
        if may is not None:
            close[~may(rows)[:, other.rows]] = -1
        for at in np.flatnonzero((close >= _CLOSE).any(1)):
            likely = np.argsort(-close[at], kind="stable")[:_MOST]
            frames = frames_of(ours[rows[at]])
            for column in likely[close[at, likely] >= _CLOSE]:
                candidate = frames_of(theirs[other.rows[column]])
                if similarity(frames, candidate) >= ALIKE:  # type: ignore[arg-type]
                    found[rows[at]] = other.rows[column]
                    break
    return found


@dataclass(frozen=True)
class _Coarse:
    """The R clips whose fingerprints are known, coarsely.

    Attributes:
        rows: [R] which of the fingerprints.
        frames: [R, T * BANDS], each band's mean removed, zeros after a clip's end.
        size: [R] coarse frames.
        energy: [R, T + 1] sum of squares of a clip's first frames.
    """

    rows: npt.NDArray[np.int64]
    frames: Floats
    size: npt.NDArray[np.int64]
    energy: Floats


def _coarse(fingerprints: Sequence[Bytes]) -> _Coarse:
    rows, parts = [], []
    for row, fingerprint in enumerate(fingerprints):
        frames = frames_of(fingerprint)
        if frames is None or len(frames) < SHORTEST:
            continue
        whole = len(frames) // _COARSE * _COARSE
        blocks = _pattern(frames)[:whole].reshape(-1, _COARSE, BANDS).mean(1)
        # Each with the next: a shift that is no whole coarse frame costs less.
        smooth = (blocks[1:] + blocks[:-1]) / 2
        rows.append(row)
        parts.append(smooth - smooth.mean(0))
    size = np.array([len(part) for part in parts], np.int64)
    longest = int(size.max(initial=0))
    frames = np.zeros((len(parts), longest, BANDS), np.float32)
    for at, part in enumerate(parts):
        frames[at, : len(part)] = part
    energy = np.zeros((len(parts), longest + 1), np.float32)
    energy[:, 1:] = np.cumsum(np.square(frames).sum(2), axis=1)
    flat = frames.reshape(len(parts), longest * BANDS)
    return _Coarse(np.array(rows, np.int64), flat, size, energy)


def _correlations(mine: _Coarse, block: slice, other: _Coarse) -> Floats:
    """Return [block, R] the best correlation over the shifts, over the frames that both have."""
    best = np.full((len(mine.rows[block]), len(other.rows)), -1, np.float32)
    for shift in range(-(SHIFT // _COARSE), SHIFT // _COARSE + 1):
        i, j = max(shift, 0), max(-shift, 0)
        a, b = mine.frames[block, i * BANDS :], other.frames[:, j * BANDS :]
        width = min(a.shape[1], b.shape[1])
        products = a[:, :width] @ b[:, :width].T
        both = np.minimum(mine.size[block, None] - i, other.size - j).clip(0)
        energy = np.take_along_axis(mine.energy[block], both + i, 1) - mine.energy[block, i, None]
        energy *= other.energy[np.arange(len(b)), both + j] - other.energy[:, j]
        # At least a step of half a decibel everywhere: less is the same sound all the time.
        products /= np.sqrt(np.maximum(energy, np.square(both * float(BANDS)) + 1))
        np.maximum(best, products, out=best)
    return best


def _pattern(frames: Floats) -> Floats:
    """Raise what cannot be heard beside a clip's loudest band, and take each frame's level away."""
    heard = np.maximum(frames, frames.max() - _DEPTH * STEPS)
    pattern: Floats = heard - heard.mean(1, keepdims=True)
    return pattern


def _running(frames: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the sums [T + 1, BANDS], and sums of squares [T + 1], of the first frames."""
    sums = np.concatenate([np.zeros((1, frames.shape[1])), np.cumsum(frames, axis=0)])
    return sums, np.concatenate([[0.0], np.cumsum(np.square(frames).sum(1))])
