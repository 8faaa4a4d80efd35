"""Stage 1 by its parts: decoding, the encoder, the whole, the cache against plain file calls.

    python benchmarks/extract.py [--encoder distillmos] [--device cuda] [--out results.json]
    python benchmarks/extract.py --only short --encoder mel --clips 1000

Audio is noise made here: 22 s at 44.1 kHz, WAV and FLAC; 0.1 s for ``short``. Every
figure is the best of three runs (the whole extraction: one), since other load on the machine only
ever makes a run slower. Takes about three minutes on two cores. Each part is printed and written
when it is there; one that fails says why.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch

from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.cache.content import CacheContent, Header, clip_table, no_labels
from qamro_cache.cache.reader import open_cache
from qamro_cache.cache.verify import verify_cache
from qamro_cache.cache.writer import write_cache
from qamro_cache.datasets.records import Dataset
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.extraction.extract import extract
from qamro_cache.extraction.units import available_processors
from qamro_cache.identity import AudioPolicy, EncoderSpec, identity_of

SECONDS, SHORT, RATE = 22, 0.1, 44_100


def best(call: Callable[[], object], times: int = 3) -> float:
    """Seconds of the quickest of some calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def one_and_all(clips: int, run: Callable[[int], object]) -> dict[str, float]:
    """Clips a second on one decoding thread and on one a processor.

    In turns, so that a change of the machine's speed meets both; the best of each.
    """
    threads = available_processors()
    taken: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(7):
        for number, times in taken.items():
            times.append(best(partial(run, number), 1))
    one, many = clips / min(taken[1]), clips / min(taken[threads])
    return {
        "threads": threads,
        "one_thread_clips_per_second": one,
        "all_threads_clips_per_second": many,
        "speedup": many / one,
    }


def make_clips(folder: Path, count: int, seconds: float = SECONDS) -> Dataset:
    """Write noise, WAV and FLAC in turn."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        path = folder / f"{index}.{('wav', 'flac')[index % 2]}"
        soundfile.write(path, rng.standard_normal(int(seconds * RATE)) * 0.1, RATE)
        rows.append({"clip_id": str(index), "path": str(path), "prompt": ""})
    clips = clip_table(pd.DataFrame(rows))
    return Dataset("noise", clips, no_labels(count), synthetic=True)


def decoding(paths: list[str], policy: AudioPolicy) -> dict[str, float]:
    """Decode, hash, resample and cut."""

    def decode(path: str) -> int:
        return sum(1 for _ in ClipDecoder(path, policy).windows())

    def run(workers: int) -> None:
        # torchaudio's resampler would use every processor for a single decoding thread.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(decode, paths))

    threads = torch.get_num_threads()
    try:
        return one_and_all(len(paths), run)
    finally:
        torch.set_num_threads(threads)


class NoEncoder:
    """Takes no time, so that a whole extraction shows what comes before and after an encoder."""

    def __init__(self, policy: AudioPolicy) -> None:
        self.spec = EncoderSpec("none", "1", policy, {"first": (1,)})

    def encode(self, windows: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each window's first sample [B, 1]."""
        return {"first": windows[:, :1]}

    def encode_text(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return nothing."""
        return {}


def without_encoder(dataset: Dataset, folder: Path, policy: AudioPolicy) -> dict[str, float]:
    """Extract with an encoder that takes no time."""
    runs = iter(range(1000))

    def run(workers: int) -> None:
        extract(dataset, folder / f"none{next(runs)}.h5", NoEncoder(policy), workers=workers)

    return one_and_all(len(dataset.clips), run)


def encoding(encoder: Any, device: str, batch: int = 16) -> dict[str, float]:
    """Encode windows that lie on the device already."""
    windows = torch.randn(batch, encoder.spec.audio.window, device=device) * 0.1
    valid = torch.full((batch,), encoder.spec.audio.window, device=device)

    def once() -> None:
        with torch.inference_mode():
            encoder.encode(windows, valid)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    once()
    return {"windows_per_second": batch / best(once)}


def upstream(encoder: str, paths: list[str]) -> dict[str, Any]:
    """Score files one at a time by the package's own example, where it has one for this encoder."""
    if encoder != "distillmos":
        return {"skipped": f"no upstream file API measured here for {encoder}"}
    import distillmos
    import torchaudio

    model = distillmos.ConvTransformerSQAModel()
    model.eval()

    def score(path: str) -> None:
        samples, rate = soundfile.read(path, dtype="float32")
        audio = torchaudio.functional.resample(torch.from_numpy(samples)[None], rate, 16_000)
        with torch.inference_mode():
            model(audio)

    score(paths[0])
    return {"clips_per_second": len(paths) / best(lambda: [score(path) for path in paths], 1)}


def cache_files(folder: Path, windows: int, width: int) -> dict[str, float]:
    """Write, open, read and verify a cache against the same bytes in a plain file."""
    values = np.random.default_rng(0).standard_normal((windows, width), dtype=np.float32)
    spec = EncoderSpec("none", "1", AudioPolicy(1, 1, 1), {"embedding": (width,)})
    clips = clip_table(pd.DataFrame({"clip_id": [str(index) for index in range(windows)]}))
    content = CacheContent(
        clips,
        no_labels(windows),
        np.arange(windows + 1, dtype=np.int64),
        np.ones(windows, np.float32),
        np.zeros(windows, np.int64),
        {"embedding": values},
    )
    header = Header(identity_of(spec))
    plain, path = folder / "plain.bin", folder / "cache.h5"

    def write_plain() -> None:
        with plain.open("wb") as file:
            values.tofile(file)
            file.flush()
            os.fsync(file.fileno())

    size = values.nbytes / 1e6
    written = best(write_plain, 1)
    cached = best(partial(write_cache, path, content, header), 1)
    # Alternating, so that both meet the same load.
    numpy_read, cache_read, tables = [], [], []
    for _ in range(5):
        numpy_read.append(best(lambda: np.fromfile(plain, np.float32), 1))
        tables.append(best(lambda: open_cache(path), 1))
        cache = open_cache(path)
        cache_read.append(best(lambda: cache.read("embedding"), 1))  # noqa: B023
    together = min(t + r for t, r in zip(tables, cache_read, strict=True))
    return {
        "windows": windows,
        "width": width,
        "megabytes": size,
        "plain_write_MB_per_second": size / written,
        "cache_write_and_verify_MB_per_second": size / cached,
        "numpy_read_MB_per_second": size / min(numpy_read),
        "cache_open_seconds": min(tables),
        "cache_read_MB_per_second": size / min(cache_read),
        "read_over_numpy": min(numpy_read) / min(cache_read),
        "open_and_read_over_numpy": min(numpy_read) / together,
        "verify_MB_per_second": size / best(lambda: verify_cache(path), 1),
    }


def main() -> None:
    """Run every part and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", default="distillmos")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--only", choices=["decode", "encode", "extract", "cache", "short"])
    parser.add_argument("--out", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    wanted = [options.only] if options.only else ["decode", "encode", "extract", "cache"]
    results: dict[str, Any] = {
        "command": "python benchmarks/extract.py " + " ".join(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name()
        if options.device.startswith("cuda")
        else f"CPU, {available_processors()} cores, {platform.machine()}",
        "platform": platform.platform(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if wanted != ["cache"]:
            from qamro_cache.encoders.protocol import EncoderOptions

            seconds = SHORT if "short" in wanted else SECONDS
            dataset = make_clips(folder, options.clips, seconds)
            results["clip"] = f"{seconds} s noise at {RATE} Hz, WAV and FLAC"
            paths = dataset.clips["path"].tolist()
            encoder = load_encoder(
                options.encoder, EncoderOptions(checkpoint=options.checkpoint), options.device
            )
            results["encoder"] = options.encoder
            policy = encoder.spec.audio

        def whole() -> dict[str, float]:
            processor = time.process_time()
            device, out = options.device, folder / "emb.h5"
            summary = extract(dataset, out, encoder, device=device, batch_size=options.batch_size)
            used = time.process_time() - processor
            return summary.stats.figures() | {
                "windows_per_second": summary.windows / summary.stats.elapsed,
                "processor_ms_per_clip": used / options.clips * 1000,
            }

        parts: dict[str, tuple[set[str], Callable[[], dict[str, Any]]]] = {
            "decode": ({"decode"}, lambda: decoding(paths, policy)),
            "extract_without_encoder": (
                {"decode"},
                lambda: without_encoder(dataset, folder, policy),
            ),
            "encode": ({"encode"}, lambda: encoding(encoder, options.device)),
            "extract": ({"extract", "short"}, whole),
            "upstream": ({"extract"}, lambda: upstream(options.encoder, paths[:10])),
            "cache": ({"cache"}, lambda: cache_files(folder, 200_000, 512)),
        }
        for part, (asked, measure) in parts.items():
            if asked & set(wanted):
                results[part] = guarded(measure)
                print(part, json.dumps(results[part], indent=2), flush=True)
                if options.out:
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(results, indent=2) + "\n")


def guarded(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a part measures, or why it failed, which loses no other."""
    try:
        return measure()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
