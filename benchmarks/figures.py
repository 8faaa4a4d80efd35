"""Eight small runs of the commands, and a hash of every figure and tensor that they make.

For changes that must not change a number: print the hashes before (``--out before.json``) and
compare after (``--against before.json``). The data are synthetic. Hashes are of exact bits, so they
hold for one machine and one torch; they say nothing about how good a head is.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is loaded: without it, last digits depend on where an array lies in memory.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

#: Name -> command line; ``{plain}`` and ``{split}`` are caches, the second with a dev split.
RUNS = {
    "system-sgd": "train --cache {plain} --cv system --seeds 2 --epochs 6 --lr 5e-3",
    "group-adamw": "train --cache {plain} --cv group --seeds 2 --epochs 4 --optimizer adamw "
    "--dropout 0.2 --weight-decay 0.1 --axis match",
    "prompt-text": "train --cache {plain} --cv prompt --inputs products --stop inner --seeds 2 "
    "--epochs 12 --patience 3 --lr 1e-2",
    "folds-windows": "train --cache {plain} --cv 4 --pooling attention --output bounded "
    "--activation tanh --layer-norm true --seeds 2 --epochs 4 --save-folds",
    "split-raw": "train --cache {split} --cv split --loss 0.5*huber+qamro+listnet@standardized "
    "--normalize scale --batches own --seeds 3 --epochs 20 --patience 4 --lr 1e-3",
    "layers": "train --cache {plain} --feature layers --head audiobox --widths 8 --cv group "
    "--seeds 2 --epochs 4",
    "grid": "ablate --cache {plain} --alpha 0.1,0.5 --beta 3,7 --cv system,3 --seeds 2 "
    "--epochs 4 --axis quality --batch-size 8,16 --resamples 200",
    "raters": "ablate --cache {plain} --grid annotation_noise --stop inner --cv group --seeds 2 "
    "--epochs 4 --axis quality --resamples 100 --raters 1,2,0",
}


def run(folder: Path) -> None:
    """Make the caches and every run in ``folder``."""
    from synthetic_cache import write_synthetic

    caches = {
        "plain": write_synthetic(folder / "plain.h5"),
        "split": write_synthetic(folder / "split.h5", clips=60, seed=1, split=True),
    }
    commands = Path(sys.executable).parent
    for name, line in RUNS.items():
        words = line.format(**caches).split()
        out = folder / name
        command = [str(commands / f"qamro-{words[0]}"), *words[1:], "--out", str(out)]
        subprocess.run([*command, "--device", "cpu"], check=True, stdout=subprocess.DEVNULL)
        head = out / "head.safetensors"
        if head.exists():
            more = [str(commands / "qamro-predict"), "--head", str(head)]
            more += ["--cache", str(caches["plain"]), "--out", str(out / "again.csv")]
            subprocess.run(more, check=True, stdout=subprocess.DEVNULL)


def bins() -> dict[str, str]:
    """Hash value and gradient of the binned loss, which no command reached at first."""
    import torch

    from qamro_cache import qamro_loss

    generator = torch.Generator().manual_seed(0)
    hashes = {}
    for name in ("aes-PQ", "aes-PC", "aes-CE", "aes-CU"):
        target = torch.rand(200, generator=generator, dtype=torch.float64) * 9 + 1
        pred = torch.randn(3, 200, generator=generator, dtype=torch.float64).requires_grad_()
        loss = qamro_loss(pred, target, weights=name)
        loss.sum().backward()
        hashes[name] = _digest(loss.detach().numpy().tobytes() + pred.grad.numpy().tobytes())
    return hashes


def hashes_of(folder: Path) -> dict[str, str]:
    """Hash every column, number and tensor below a folder of runs: name -> hash."""
    return {
        f"{path.relative_to(folder)}: {name}": digest
        for path in sorted(folder.rglob("*"))
        for name, digest in _file(path)
    }


def _file(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".csv":
        table = pd.read_csv(path, keep_default_na=False)
        for name in table:
            yield str(name), _digest("\n".join(map(str, table[name])).encode())
    elif path.suffix == ".json":
        for name, value in _leaves(json.loads(path.read_text()), ""):
            if isinstance(value, float | int) and not isinstance(value, bool):
                yield name, repr(value)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        for name, value in load_file(path).items():
            yield name, _digest(np.ascontiguousarray(value).tobytes())


def _leaves(record: Any, name: str) -> Iterator[tuple[str, Any]]:
    pairs = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in pairs:
        if isinstance(value, dict | list):
            yield from _leaves(value, f"{name}{key}/")
        else:
            yield f"{name}{key}", value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def main() -> None:
    """Run, print or keep the hashes, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON to write.")
    parser.add_argument("--against", type=Path, help="JSON of an earlier call to compare with.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))
        hashes = {**hashes_of(Path(folder)), **{f"bins: {k}": v for k, v in bins().items()}}
    record = {
        "command": "python benchmarks/figures.py",
        "date": time.strftime("%Y-%m-%d"),
        "device": "cpu",
        "synthetic": True,
        "hashes": hashes,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(hashes)} figures and tensors of {len(RUNS)} runs, and bins")
    if arguments.against:
        before = json.loads(arguments.against.read_text())["hashes"]
        for name in sorted({*before, *hashes}):
            if before.get(name) != hashes.get(name):
                print(f"{name}: {before.get(name, 'not there')} -> {hashes.get(name, 'gone')}")
        sys.exit(before != hashes)


if __name__ == "__main__":
    main()
