"""How fast encoders run: upstream's own interface, the bare networks, and ours.

    python benchmarks/encode.py
    python benchmarks/encode.py --ours --device cuda --batch-size 64,256 --seconds 5

First our networks on windows that lie on the device, at each precision, eager and then compiled
(on a CPU: eager, float32), which needs torch and transformers alone; then, unless --ours, from
files to the cache and against upstream's. What needs a package that is not here says so.

Takes about four minutes on two CPU cores, of which --ours is one. On a GPU a row takes --seconds
and some, a compiled row at first some 30 to 90 s to compile, and none over 150 s: so by --ours for
a batch size half a minute of eager rows, then about five minutes of compiled ones, at most fifteen.

Weights are random in the real architecture (resemblyzer's are its own) and sounds are synthetic:
figures are of speed and of agreement, not of quality. Errors are the largest over features and
clips, as a share of the median distance between clips; of resident windows against ours on the CPU
in float32, else against upstream's. The gate is our network's speed over that of upstream's, in
float32, in turns, so that whatever else the machine does hits both. Of resemblyzer the processor
time of a clip is measured, on a CPU. Each row is printed and written to
benchmarks/results/encode-DEVICE.json when it is there; one that fails says why and loses no other.
"""

import argparse
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT / "tests")  # beside this file lies a coverage.py, which numba would take

from audiobox_reference import make_reference as make_audiobox  # noqa: E402
from clap_reference import make_reference as make_clap  # noqa: E402
from clap_reference import sound  # noqa: E402
from random_networks import make_audiobox as make_our_audiobox  # noqa: E402
from random_networks import make_clap as make_our_clap  # noqa: E402

from qamro_cache.encoders.precision import PRECISIONS, check_precision, computing_in  # noqa: E402
from qamro_cache.encoders.protocol import Encoder, EncoderOptions  # noqa: E402
from qamro_cache.encoders.registry import load_encoder  # noqa: E402
from qamro_cache.encoders.upstream import relative_error  # noqa: E402
from qamro_cache.extraction.units import available_processors  # noqa: E402
from qamro_cache.files import write_json  # noqa: E402

SOUNDS = 4  # different ones
LONGEST = 150  # seconds that a row may take
OURS = {"clap": make_our_clap, "audiobox": make_our_audiobox}
UPSTREAM = {
    "clap": ("laion_clap", "torchlibrosa", "soundfile", "soxr"),
    "audiobox": ("audiobox_aesthetics", "torchaudio"),
    "resemblyzer": ("resemblyzer", "torchaudio"),
}


class Bench:
    """Takes times and keeps them.

    Args:
        device: torch device.
        seconds: least time a measurement.
        batch_size: windows at once.
        save: writes all that there is.
    """

    def __init__(
        self, device: str, seconds: float, batch_size: int, save: Callable[["Bench"], None]
    ) -> None:
        self.device, self.seconds, self.batch_size = torch.device(device), seconds, batch_size
        self.save = save
        self.rows: list[dict[str, Any]] = []
        self.gates: dict[str, float] = {}

    def rates(self, count: int, *steps: Callable[[], Any]) -> list[float]:
        """Return windows/s of steps of ``count`` windows, run in turns; the first turn warms up."""
        taken: list[list[float]] = []
        least = 1 if len(steps) == 1 else 3  # a ratio wants a median of some
        total = 0.0
        for step in steps:
            step()
        while len(taken) < least or total < self.seconds * len(steps):
            taken.append([self.time(step) for step in steps])
            total += sum(taken[-1])
        return [count / statistics.median(times) for times in zip(*taken, strict=True)]

    def time(self, step: Callable[[], Any]) -> float:
        """Return the seconds that ``step`` takes, a GPU's part included."""
        start = time.perf_counter()
        step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def keep(self, what: str, rate: float | None = None, **more: Any) -> None:
        """Keep and print one result."""
        self.rows.append({"what": what, "windows_per_second": rate and round(rate, 3), **more})
        speed = f"{rate:10.2f} windows/s" if rate else " " * 20
        shown = {k: f"{v:.7g}" if isinstance(v, float) else v for k, v in more.items()}
        print(f"{speed}  {what}", *(f" {name} {value}" for name, value in shown.items()))
        sys.stdout.flush()
        self.save(self)

    @contextmanager
    def guarded(self, what: str, seconds: int = 0, **more: Any) -> Iterator[None]:
        """Keep what fails, or takes more than ``seconds``, as a row that says why, and go on."""

        def late(*_: object) -> None:
            raise TimeoutError(f"not done after {seconds} s")

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(seconds)
        try:
            yield
        except Exception as error:
            lines = str(error).splitlines() or [""]
            self.keep(what, failed=f"{type(error).__name__}: {lines[0]}", **more)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def network(
        self, encoder: Any, expected: torch.Tensor, size: int, precision: str, compiled: bool
    ) -> None:
        """Measure one of our networks on windows that lie on the device.

        Args:
            encoder: on the device.
            expected: its first feature of the first windows, by the CPU in float32.
            size: windows at once.
            precision: to compute in.
            compiled: whether by torch.compile.
        """
        name, feature = encoder.spec.name, next(iter(encoder.spec.features))
        about = {"encoder": name, "precision": precision, "compiled": compiled, "batch_size": size}
        what = f"{name}, resident, {precision}{', compiled' * compiled}, batches of {size}"
        encoder.spec = replace(encoder.spec, precision=precision)
        gpu = self.device.type == "cuda"
        with self.guarded(what, LONGEST, **about):
            check_precision(precision, str(self.device))
            windows = resident(encoder.spec.audio.window, size).to(self.device)
            valid = torch.full((size,), windows.shape[1], device=self.device)
            got: dict[str, Any] = {}

            def step() -> None:
                got.update(encoder.encode(windows, valid))

            if gpu:
                torch.cuda.reset_peak_memory_stats()
            if compiled:
                torch._dynamo.reset()
                for network in encoder.networks():
                    network.compile(dynamic=False)
            first = self.time(step)
            (rate,) = self.rates(size, step)
            if compiled:
                about["compile_seconds"] = round(first - size / rate, 2)
            if gpu:
                about["peak_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
            about |= agreement(got[feature][:SOUNDS], expected)
            self.keep(what, rate, milliseconds=round(1e3 * size / rate, 3), **about)
        for network in encoder.networks():
            network._compiled_call_impl = None

    def networks(
        self,
        label: str,
        feature: str,
        theirs: Callable[[torch.Tensor], torch.Tensor],
        load: Callable[[str], Encoder],
    ) -> None:
        """Measure upstream's bare network and ours on resident windows, in turns.

        Args:
            label: of the encoder.
            feature: by which they are compared.
            theirs: windows -> what ``feature`` is with us.
            load: our encoder in a precision.
        """
        encoder = load("float32")
        windows = resident(encoder.spec.audio.window, self.batch_size).to(self.device)
        valid = torch.full((len(windows),), windows.shape[1], device=self.device)
        with computing_in("float32", self.device):
            expected = theirs(windows[:SOUNDS]).float().cpu()
        theirs_rate, rate = self.rates(
            len(windows), lambda: theirs(windows), lambda: encoder.encode(windows, valid)
        )
        self.gates[label] = round(rate / theirs_rate, 3)
        self.keep(f"{label}, upstream's bare network, float32, in turns with ours", theirs_rate)
        got = encoder.encode(windows[:SOUNDS], valid[:SOUNDS])[feature]
        self.keep(f"{label}, ours, float32", rate, **agreement(got, expected))
        if self.device.type == "cuda":
            return
        # No speed: a CPU without such arithmetic only imitates it, audiobox for minutes.
        for precision in ("bfloat16", "float16") if label == "clap" else ():
            got = load(precision).encode(windows[:1], valid[:1])[feature]
            self.keep(f"{label}, ours, {precision}, one window", **agreement(got, expected))


def agreement(got: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    """Return the least cosine and the largest error of the first rows against upstream's."""
    got = got.float().cpu()
    cosine = torch.cosine_similarity(got, expected[: len(got)], dim=-1)
    return {"cosine": float(cosine.min()), "error": relative_error(got, expected)}


def resident(samples: int, count: int) -> torch.Tensor:
    """Return ``count`` windows; four different sounds, repeated."""
    sounds = np.stack([sound(seed, samples) for seed in range(SOUNDS)])
    return torch.from_numpy(np.resize(sounds, (count, samples)))


def bench_ours(
    bench: Bench,
    folder: Path,
    names: Sequence[str],
    args: argparse.Namespace,
) -> None:
    """Measure our networks alone, what is quick first; then from files."""
    if "compiled" in args.forms:
        # Not within a row's seconds, which would end it half imported.
        import_module("torch._inductor.compile_fx")
    found = {}
    for name in names:
        with bench.guarded(f"{name}, resident"):
            (folder / name).mkdir()
            encoder = OURS[name](folder / name)
            shutil.rmtree(folder / name)
            windows = resident(encoder.spec.audio.window, SOUNDS)
            valid = torch.full((SOUNDS,), windows.shape[1])
            expected = next(iter(encoder.encode(windows, valid).values()))
            encoder.network.to(bench.device)
            encoder.device = bench.device
            found[name] = encoder, expected
    for form in args.forms:
        for size in args.sizes:
            for precision in args.precisions:
                for encoder, expected in found.values():
                    bench.network(encoder, expected, size, precision, form == "compiled")
    for name, (encoder, _) in () if args.ours else found.items():
        if absent := lacking(("soundfile", "soxr", "xxhash", "torchaudio")):
            bench.keep(f"{name}, ours, from files", skipped=f"no {absent} here")
            continue
        with bench.guarded(f"{name}, ours, from files", 2 * LONGEST):
            (folder / name).mkdir()
            bench_files(bench, encoder, folder / name, args.clips)
        shutil.rmtree(folder / name)


def lacking(packages: Sequence[str]) -> str:
    """Say which packages are not installed."""
    return ", ".join(package for package in packages if find_spec(package) is None)


def make_files(folder: Path, clips: int) -> list[str]:
    """Write sounds of 22 s as WAV files; four different ones, repeated."""
    import soundfile

    files = [str(folder / f"{index}.wav") for index in range(clips)]
    for index, file in enumerate(files):
        if index < SOUNDS:
            soundfile.write(file, sound(index, 22 * 44_100, 44_100), 44_100)
        else:
            shutil.copyfile(files[index % SOUNDS], file)
    return files


def bench_files(bench: Bench, encoder: Any, folder: Path, clips: int) -> None:
    """From WAV files to the cache, at the precision that is chosen for the device."""
    from qamro_cache.datasets.manifest import load_manifest
    from qamro_cache.extraction.extract import extract

    precision = "float16" if bench.device.type == "cuda" else "float32"
    encoder.spec = replace(encoder.spec, precision=precision)
    files = make_files(folder, clips)
    manifest = folder / "clips.csv"
    manifest.write_text("clip_id,path\n" + "".join(f"{Path(f).stem},{f}\n" for f in files))
    dataset, figures = load_manifest(manifest), []

    def end_to_end() -> None:
        out = folder / f"emb{len(figures)}.h5"
        options = {"device": str(bench.device), "batch_size": bench.batch_size}
        figures.append(extract(dataset, out, encoder, **options).stats.figures())

    (rate,) = bench.rates(3 * clips, end_to_end)
    what = f"{encoder.spec.name}, ours, 22 s WAV to the cache, {precision}"
    bench.keep(what, rate, waits=figures[-1]["encoder_wait_share"], workers=available_processors())


def bench_clap(bench: Bench, folder: Path, clips: int) -> None:
    """CLAP with HTSAT-base: laion_clap's files, its network, our network."""
    reference = make_clap(folder)
    module = reference.module.to(bench.device)
    few = make_files(folder, min(clips, 128))  # laion_clap is slow enough for these to do

    def load(precision: str) -> Encoder:
        options = EncoderOptions(
            checkpoint=str(reference.checkpoint), tokenizer="none", precision=precision
        )
        return load_encoder("clap", options, str(bench.device))

    def their_files(size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(few), size):
                module.get_audio_embedding_from_filelist(few[start : start + size])

    def their_network(windows: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            inputs = {"waveform": windows}
            return module.model.audio_branch(inputs, device=bench.device)["embedding"]

    bench.networks("clap", "pooled", their_network, load)
    # Of 22 s upstream takes one window at random, we take all three.
    alone, together = (bench.rates(len(few), lambda n=n: their_files(n))[0] for n in (1, 64))
    bench.keep("clap, laion_clap's file API, 22 s WAV, one clip a call", alone)
    bench.keep("clap, laion_clap's file API, 22 s WAV, 64 clips a call", together)


def bench_audiobox(bench: Bench, folder: Path) -> None:
    """Audiobox: upstream's predictor on tensors, its bare WavLM, our layers."""
    reference = make_audiobox(folder)
    predictor = reference.predictor
    predictor.device = bench.device
    predictor.model.to(bench.device)

    def load(precision: str) -> Encoder:
        options = EncoderOptions(checkpoint=str(reference.file), precision=precision)
        return load_encoder("audiobox", options, str(bench.device))

    def their_network(windows: torch.Tensor) -> torch.Tensor:
        padding = torch.zeros_like(windows, dtype=torch.bool)
        with torch.inference_mode():
            (_, layers), _ = predictor.model.wavlm_model.extract_features(
                windows, padding_mask=padding, output_layer=13, ret_layer_results=True
            )
            return torch.stack([layer.mean(0) for layer, _ in layers], 1)

    bench.networks("audiobox", "layers", their_network, load)
    windows = resident(160_000, bench.batch_size)
    batch = [{"path": row[None], "sample_rate": 16_000} for row in windows]
    (rate,) = bench.rates(len(batch), lambda: predictor.forward(batch))
    bench.keep("audiobox, its predictor on tensors", rate)


def bench_resemblyzer(bench: Bench) -> None:
    """Resemblyzer with its real weights: a clip a call, without decoding, beside upstream's own."""
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import normalize_volume, wav_to_mel_spectrogram

    encoder = load_encoder("resemblyzer", device=str(bench.device))
    network = VoiceEncoder(bench.device, verbose=False)
    for seconds in (3, 10, 60):
        clip = sound(0, seconds * 16_000, 16_000)
        window = torch.zeros(1, encoder.spec.audio.window, device=bench.device)
        window[0, : len(clip)] = torch.from_numpy(clip)
        valid = torch.tensor([len(clip)], device=bench.device)

        def theirs(clip: Any = clip) -> None:
            mels = wav_to_mel_spectrogram(normalize_volume(clip, -30, increase_only=True))
            with torch.inference_mode():
                network.lstm(torch.from_numpy(mels)[None].to(bench.device))

        def ours(window: Any = window, valid: Any = valid) -> None:
            encoder.encode(window, valid)

        for who, step in {"upstream's front end and LSTM": theirs, "ours": ours}.items():
            step()
            used = statistics.median(processor_seconds(step) for _ in range(9))
            bench.keep(f"resemblyzer, {who}, {seconds} s", processor_milliseconds=1e3 * used)


def processor_seconds(step: Callable[[], Any]) -> float:
    """Return the processor time of ``step``: whatever else the machine does, it stays the same."""
    start = time.process_time()
    step()
    return time.process_time() - start


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--batch-size", help="windows at once, several by commas; 64, on a CPU 4")
    parser.add_argument("--seconds", type=float, default=5, help="least time a measurement")
    parser.add_argument("--clips", type=int, default=1024 if cuda else 4, help="files, 22 s each")
    parser.add_argument("--only", choices=[*UPSTREAM])
    parser.add_argument("--ours", action="store_true", help="resident networks of ours alone")
    parser.add_argument("--precision", help="of resident ones; float16,tf32,float32, on a CPU last")
    parser.add_argument("--form", help="of resident ones; eager,compiled, on a CPU the first")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    gpu = torch.device(args.device).type == "cuda"
    args.sizes = [int(size) for size in (args.batch_size or ("64" if gpu else "4")).split(",")]
    given = args.precision or ("float16,tf32,float32" if gpu else "float32")
    args.precisions = given.split(",")
    args.forms = (args.form or ("eager,compiled" if gpu else "eager")).split(",")
    if unknown := {*args.precisions} - {*PRECISIONS} | {*args.forms} - {"eager", "compiled"}:
        parser.error(f"unknown: {', '.join(unknown)}")
    return args


def main() -> None:
    """Measure and write the result."""
    args = parse()
    kind = torch.device(args.device).type
    cores = f"CPU, {available_processors()} cores, {platform.machine()}"
    out = args.out or ROOT / "benchmarks" / "results" / f"encode-{kind}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "command": " ".join(["python", "benchmarks/encode.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if kind == "cuda" else cores,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "batch_size": args.sizes[0],
        "note": "random weights (not resemblyzer), synthetic sounds: speed and agreement only",
    }

    def save(bench: Bench) -> None:
        found = {
            "ours_over_bare_upstream_network_float32": bench.gates,
            "results": bench.rows,
        }
        write_json(out, {**about, **found})

    bench = Bench(args.device, args.seconds, args.sizes[0], save)
    wanted = [args.only] if args.only else [*UPSTREAM]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = [name for name in OURS if name in wanted]
        bench_ours(bench, folder, ours, args)
        for name in () if args.ours else wanted:
            if absent := lacking(UPSTREAM[name]):
                bench.keep(f"{name}, upstream's", skipped=f"no {absent} here")
                continue
            with bench.guarded(f"{name}, upstream's"):
                (folder / name).mkdir()
                if name == "clap":
                    bench_clap(bench, folder / name, args.clips)
                elif name == "audiobox":
                    bench_audiobox(bench, folder / name)
                else:
                    bench_resemblyzer(bench)
    for name, ratio in bench.gates.items():
        print(f"gate: {name}, float32, ours / upstream's bare network: {ratio:.2f} (at least 1)")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
