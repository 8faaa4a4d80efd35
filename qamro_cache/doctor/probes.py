"""How fast a device is at the work of this package, and whether graphs and the compiler work there.

``python -m qamro_cache.doctor.probes DEVICE PROBE...``, by `qamro_cache.doctor.examine`: what ends
the process here is a line there. All data are synthetic.
"""

import logging
import sys
import tempfile
import time
import warnings
import wave
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.devices import float32_products, pinned
from qamro_cache.errors import words_of
from qamro_cache.identity import AudioPolicy
from qamro_cache.training.check import main
from qamro_cache.training.fit import fit
from qamro_cache.training.inputs import Features, Folds, Targets
from qamro_cache.training.recipe import Job, make_recipe

#: Numbers that are copied at once, and the sides of square matrices; a GPU is lost on smaller ones.
COPIED = 1 << 26
SIDE = {"cpu": 1536, "cuda": 8192}
#: Heads side by side, and what they learn from: clips, of which a ninth validates, and their width.
HEADS, CLIPS, WIDTH, BATCH = 64, 2304, 512, 256
#: A GPU's first ten, in which kernels are compiled and a graph is captured, are not counted.
EPOCHS = {"cpu": 3, "cuda": 60}
#: Seconds of a sound file, its rate, and how its windows are cut, as for CLAP.
SECONDS, RATE = 60, 44_100
POLICY = AudioPolicy(sample_rate=48_000, window=480_000, hop=480_000)

Figures = dict[str, Any]


def gpus(device: torch.device) -> Figures:
    """Name the GPUs that PyTorch can use, and why it can use none."""
    if not torch.cuda.is_available():
        torch.cuda.init()  # says why
        raise RuntimeError("no GPU is visible")
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = f"{properties.major}.{properties.minor}"
        sizes = {"memory_bytes": total, "free_bytes": free}
        found.append({"name": properties.name, "capability": capability, **sizes})
    return {"gpus": found}


def copy(device: torch.device) -> Figures:
    """Measure memory: bytes read and written a second."""
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    return {"gbyte_s": 2 * source.nbytes / _best(lambda: target.copy_(source), device) / 1e9}


def products(device: torch.device) -> Figures:
    """Measure products of square matrices in each precision."""
    n = SIDE[device.type]
    a = torch.randn(n, n, device=device)
    found = {"float32": partial(torch.mm, a, a)}
    if device.type == "cuda":
        half = a.half()
        found["float16"] = partial(torch.mm, half, half)
        if _is_new(device):
            rounded = a.bfloat16()
            found |= {"tf32": found["float32"], "bf16": partial(torch.mm, rounded, rounded)}
    rates = {}
    for name, run in found.items():
        with float32_products(tf32=name == "tf32"):
            rates[name] = 2 * n**3 / _best(run, device) / 1e12
    return {"tflop_s": rates}


def transfer(device: torch.device) -> Figures:
    """Measure copies between the processor's memory and the GPU's."""
    there = torch.empty(COPIED, device=device)
    ways = {"to_gpu": pinned([COPIED], torch.float32), "to_gpu_unpinned": torch.ones(COPIED)}
    rates = {
        name: there.nbytes / _best(partial(there.copy_, source, True), device) / 1e9
        for name, source in ways.items()
    }
    back = _best(lambda: ways["to_gpu"].copy_(there, True), device)
    return {"gbyte_s": {**rates, "from_gpu": there.nbytes / back / 1e9}}


def graph(device: torch.device) -> Figures:
    """Capture a CUDA graph of a hundred launches, and replay it with other numbers."""
    x = torch.ones(256, device=device)
    total = torch.zeros_like(x)

    def work() -> None:
        for _ in range(100):
            total.add_(x)

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream(device).wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, stream=stream):
        work()
    total.zero_()
    x.fill_(2)
    captured.replay()
    if total.tolist() != [200.0] * len(x):
        raise RuntimeError("a replayed graph computes something else")
    ways = {"eager": work, "graph": captured.replay}
    return {"us_a_launch": {name: 1e4 * _best(run, device) for name, run in ways.items()}}


def compiled(device: torch.device) -> Figures:
    """Compile a tiny network as large encoders are compiled; the seconds are the compiler's."""
    torch.manual_seed(0)
    layers = (torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.LayerNorm(64))
    net, x = torch.nn.Sequential(*layers).to(device), torch.randn(32, 64, device=device)
    with torch.inference_mode():
        plain = net(x)
        net.compile(dynamic=False)
        error = float((net(x) - plain).norm() / plain.norm())
    if not error <= 1e-2:
        raise RuntimeError(f"a compiled network differs by {error:.1g}")
    return {"error": error}


def step(device: torch.device, precision: str = "float32") -> Figures:
    """Train heads as `fit` does, and tell the milliseconds of a step of all of them."""
    epochs = EPOCHS[device.type]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(CLIPS, WIDTH, generator=g)
    y = (3 + x[:, :4].sum(1) / 4 + torch.randn(CLIPS, generator=g) / 4).clamp(1, 5).double()
    held = np.arange(CLIPS) % 9 == 0
    data = (
        Features(x, torch.arange(CLIPS + 1), torch.ones(CLIPS)),
        Targets(y[None], torch.tensor([[1.0, 5.0]])),
        Folds(~held[None], held[None], np.zeros((1, CLIPS), bool)),
    )
    recipe = make_recipe({"batch_size": BATCH, "epochs": epochs, "patience": epochs})
    jobs = [Job(recipe, seed) for seed in range(HEADS)]
    looks: list[tuple[float, int]] = []

    def look(done: int, total: int, running: int) -> None:
        if not done:  # begun again, without kernels
            looks.clear()
        looks.append((time.perf_counter(), done))

    start = time.perf_counter()
    for _ in fit(*data, jobs, device=device, precision=precision, weights=False, progress=look):
        pass
    (first, begun), (last, done) = looks[0], looks[-1]
    steps = -(-int((~held).sum()) // BATCH)
    seconds = (last - first) / (done - begun) * HEADS / steps
    return {"heads": HEADS, "ms_a_step": 1e3 * seconds, "seconds_before": first - start}


def decode(device: torch.device) -> Figures:
    """Measure one core that decodes a WAV file out of memory, and resamples it as for CLAP."""
    sound = np.random.default_rng(0).normal(0, 3000, SECONDS * RATE).astype("<i2")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(sound.tobytes())
        seconds = []
        for _ in range(3):
            start = time.process_time()
            for _ in ClipDecoder(path, POLICY).windows():
                pass
            seconds.append(time.process_time() - start)
    return {"audio_seconds_a_second": SECONDS / min(seconds)}


PROBES: Mapping[str, Callable[[torch.device], Figures]] = {
    "gpus": gpus,
    "copy": copy,
    "products": products,
    "transfer": transfer,
    "graph": graph,
    "compile": compiled,
    "step float32": step,
    "step tf32": partial(step, precision="tf32"),
    "step bf16": partial(step, precision="bf16"),
    "decode": decode,
}


def measure(name: str, device: torch.device) -> dict[str, object]:
    """Return what a probe finds, or what is in its way, and what was said meanwhile."""
    notices: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notices.append(record.getMessage())

    record: dict[str, object] = {"family": name, "problem": "", "notices": notices}
    handler = Keep(logging.WARNING)
    logging.getLogger("qamro_cache").addHandler(handler)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record |= PROBES[name](device)
    except (torch.OutOfMemoryError, MemoryError):
        record["problem"] = "no memory is free for it"
    except Exception as error:  # whatever a driver, a compiler or a missing package has to say
        record["problem"] = f"{type(error).__name__}: {words_of(error)}"
    finally:
        logging.getLogger("qamro_cache").removeHandler(handler)
    return record | {"seconds": round(time.perf_counter() - start, 2)}


def _is_new(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _best(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Return the seconds of the fastest run, after one that is not counted."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds = []
    for _ in range(1 + repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


if __name__ == "__main__":
    main(sys.argv[1:], measure)
