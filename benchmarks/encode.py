"""How fast encoders run: upstream's own interface, the bare networks, and ours.

    python benchmarks/encode.py                     # about three minutes on two CPU cores
    python benchmarks/encode.py --device cuda --batch-size 64 --seconds 10

Weights are random in the real architecture and sounds are synthetic: figures are of speed and of
agreement with float32, not of quality. The result is printed and written to
benchmarks/results/encode-DEVICE.json.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from audiobox_reference import make_reference as make_audiobox  # noqa: E402
from clap_reference import make_reference as make_clap  # noqa: E402
from clap_reference import sound  # noqa: E402

from qamro_cache.datasets.manifest import load_manifest  # noqa: E402
from qamro_cache.encoders.protocol import Encoder, EncoderOptions  # noqa: E402
from qamro_cache.encoders.registry import load_encoder  # noqa: E402
from qamro_cache.encoders.runner import Runner  # noqa: E402
from qamro_cache.extraction.extract import extract  # noqa: E402


class Bench:
    """Takes times and keeps them.

    Args:
        device: torch device.
        seconds: least time a measurement.
        batch_size: windows at once.
    """

    def __init__(self, device: str, seconds: float, batch_size: int) -> None:
        self.device, self.seconds, self.batch_size = torch.device(device), seconds, batch_size
        self.rows: list[dict[str, Any]] = []

    def measure(self, name: str, step: Callable[[], Any], count: int, **more: Any) -> None:
        """Time ``step``, which does ``count`` windows, after one run to warm up."""
        step()
        self.wait()
        done, start = 0, time.perf_counter()
        while done == 0 or time.perf_counter() - start < self.seconds:
            step()
            self.wait()
            done += count
        rate = done / (time.perf_counter() - start)
        self.rows.append({"what": name, "windows_per_second": round(rate, 3), **more})
        cosine = f"  cosine to float32 {more['cosine']:.6f}" if "cosine" in more else ""
        print(f"{rate:10.2f} windows/s  {name}{cosine}", flush=True)

    def wait(self) -> None:
        """Wait for a GPU to have finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def ours(self, label: str, load: Callable[[str], Encoder], precisions: list[str]) -> None:
        """Measure our encoder on resident windows, in each precision, plain and compiled."""
        first: torch.Tensor | None = None
        windows: torch.Tensor | None = None
        for precision in precisions:
            encoder = load(precision)
            if windows is None:
                windows = resident(encoder.spec.audio.window, self.batch_size).to(self.device)
            valid = torch.full((len(windows),), windows.shape[1], device=self.device)
            for compiled in (False, True) if self.device.type == "cuda" else (False,):
                runner = Runner(encoder, self.device)
                if compiled:
                    runner.compile()
                name = next(iter(encoder.spec.features))
                start = time.perf_counter()
                got = runner.encode(windows, valid)[name].float().flatten(1)
                self.wait()
                more: dict[str, Any] = {
                    "first_batch_seconds": round(time.perf_counter() - start, 2)
                }
                first = got if first is None else first
                more["cosine"] = float(torch.cosine_similarity(got, first).min())
                what = f"{label}, ours, {precision}{', compiled' * compiled}"
                self.measure(
                    what,
                    lambda r=runner, w=windows, v=valid: r.encode(w, v),
                    len(windows),
                    **more,
                )


def resident(samples: int, count: int) -> torch.Tensor:
    """Return ``count`` windows; four different sounds, repeated."""
    sounds = np.stack([sound(seed, samples) for seed in range(min(4, count))])
    return torch.from_numpy(np.resize(sounds, (count, samples)))


def bench_clap(bench: Bench, folder: Path, precisions: list[str], clips: int) -> None:
    """CLAP with HTSAT-base: laion_clap's files, its network, our network, our extraction."""
    import soundfile

    reference = make_clap(folder)
    module = reference.module.to(bench.device)
    files = []
    for seed in range(clips):
        files.append(str(folder / f"{seed}.wav"))
        soundfile.write(files[-1], sound(seed % 4, 22 * 44_100, 44_100), 44_100)

    def their_files(size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(files), size):
                module.get_audio_embedding_from_filelist(files[start : start + size])

    # Of 22 s upstream takes one window at random, we take three.
    bench.measure("clap, laion_clap's file API, one clip a call", lambda: their_files(1), clips)
    bench.measure("clap, laion_clap's file API, 64 clips a call", lambda: their_files(64), clips)
    windows = resident(480_000, bench.batch_size).to(bench.device)

    def their_network() -> None:
        with torch.inference_mode():
            module.model.audio_branch({"waveform": windows}, device=bench.device)

    bench.measure("clap, laion_clap's bare network, float32", their_network, len(windows))

    def load(precision: str) -> Encoder:
        options = EncoderOptions(
            checkpoint=str(reference.checkpoint),
            tokenizer=str(reference.tokenizer),
            precision=precision,
        )
        return load_encoder("clap", options, str(bench.device))

    bench.ours("clap", load, precisions)
    manifest = folder / "clips.csv"
    manifest.write_text("clip_id,path\n" + "".join(f"{Path(f).stem},{f}\n" for f in files))
    encoder, dataset, run = load(precisions[-1]), load_manifest(manifest), iter(range(10**9))

    def end_to_end() -> None:
        out = folder / f"emb{next(run)}.h5"
        extract(dataset, out, encoder, device=str(bench.device), batch_size=bench.batch_size)

    what = f"clap, ours, from 22 s WAV files to the cache, {precisions[-1]}"
    bench.measure(what, end_to_end, 3 * clips)


def bench_audiobox(bench: Bench, folder: Path, precisions: list[str]) -> None:
    """Audiobox: upstream's predictor on tensors, its bare WavLM, our layers."""
    reference = make_audiobox(folder)
    predictor = reference.predictor
    predictor.device = bench.device
    predictor.model.to(bench.device)
    windows = resident(160_000, bench.batch_size)
    batch = [{"path": row[None], "sample_rate": 16_000} for row in windows]
    bench.measure(
        "audiobox, its predictor on tensors", lambda: predictor.forward(batch), len(batch)
    )
    windows = windows.to(bench.device)
    padding = torch.zeros_like(windows, dtype=torch.bool)

    def their_network() -> None:
        with torch.inference_mode():
            predictor.model.wavlm_model.extract_features(
                windows, padding_mask=padding, output_layer=13, ret_layer_results=True
            )

    bench.measure("audiobox, its bare WavLM, float32", their_network, len(windows))

    def load(precision: str) -> Encoder:
        options = EncoderOptions(checkpoint=str(reference.file), precision=precision)
        return load_encoder("audiobox", options, str(bench.device))

    bench.ours("audiobox", load, precisions)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--batch-size", type=int, default=64 if cuda else 4)
    parser.add_argument("--seconds", type=float, default=5, help="least time a measurement")
    parser.add_argument("--clips", type=int, default=256 if cuda else 4, help="files, 22 s each")
    parser.add_argument("--only", choices=["clap", "audiobox"])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    gpu = torch.device(args.device).type == "cuda"
    precisions = ["float32", "tf32", "bfloat16", "float16"] if gpu else ["float32"]
    bench = Bench(args.device, args.seconds, args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("clap", "audiobox"):
            (Path(folder) / name).mkdir()
        if args.only != "audiobox":
            bench_clap(bench, Path(folder) / "clap", precisions, args.clips)
        if args.only != "clap":
            bench_audiobox(bench, Path(folder) / "audiobox", precisions)
    device = torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine()
    record = {
        "command": " ".join(["python", "benchmarks/encode.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch_size": args.batch_size,
        "note": "random weights, synthetic sounds: speed and agreement with float32 only",
        "results": bench.rows,
    }
    kind = torch.device(args.device).type
    out = args.out or ROOT / "benchmarks" / "results" / f"encode-{kind}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
