"""Mutated cache files: a clear error or the right content, never a crash, a hang or wrong data.

The mutations run in a process of their own, so that a crash of the HDF5 library would show as one.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from test_cache_files import content, header

from qamro_cache.cache.writer import write_cache

CASES = 3000

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from qamro_cache.cache.reader import open_cache
from qamro_cache.errors import QamroError
good, seed, cases = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def everything(path):
    cache = open_cache(path)
    labels = cache.labels
    arrays = [cache.read(name) for name in cache.features]
    arrays += [cache.read_text(name) for name in cache.text_features]
    return (
        cache.clips.to_csv(), labels.axes, labels.mean.tobytes(), labels.stderr.tobytes(),
        labels.ratings.score.tobytes(), labels.ratings.raters, cache.identity, cache.dataset,
        cache.synthetic, [[t.numpy().tobytes() for t in a] for a in arrays],
    )
expected = everything(good)
whole = good.read_bytes()
rng = np.random.default_rng(seed)
path = good.with_name(f"mutant{seed}.h5")
refused = 0
for case in range(cases):
    data = bytearray(whole)
    kind = case % 6
    # Most of the directory lies at the head of the file.
    reach = len(data) if kind < 3 else min(len(data), 4096)
    if kind == 0:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif kind in (1, 3):
        for place in rng.integers(0, reach, rng.integers(1, 20)):
            data[place] = rng.integers(256)
    elif kind == 2:
        data = data[: rng.integers(len(data))]
    elif kind == 4:
        start, size = rng.integers(reach), rng.integers(1, 64)
        data[start : start + size] = bytes([rng.choice([0, 1, 127, 255])]) * size
    else:
        a, b, size = rng.integers(reach), rng.integers(reach), rng.integers(1, 256)
        data[a : a + size] = data[b : b + size]
    path.write_bytes(data)
    print(case, flush=True)
    try:
        found = everything(path)
    except QamroError as error:
        assert "\\n" not in str(error), repr(str(error))
        refused += 1
        continue
    assert found == expected, f"case {case} read as something else"
assert refused > cases / 2, refused
print("refused", refused)
"""


@pytest.mark.parametrize("seed", range(2))
def test_mutants_are_refused_or_read_right(tmp_path: Path, seed: int) -> None:
    write_cache(tmp_path / "good.h5", content(), header())
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "good.h5", str(seed), str(CASES // 2)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = result.stdout.splitlines()[-1:]
    assert result.returncode == 0, f"after case {last}: {result.stderr[-2000:]}"
