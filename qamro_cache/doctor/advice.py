"""What is slow or missing on a machine, and what to do about it: a line each."""

from collections.abc import Iterator, Mapping
from typing import Any

#: GB/s: a usual slot copies more; less is a slow slot, or a machine that is busy.
SLOW_TRANSFER = 5.0
#: Shares that are worth a line: of a GPU's memory held by others, and of a step saved.
HELD, SAVED = 0.25, 0.1

Record = Mapping[str, Any]


def advice(record: Record) -> Iterator[str]:
    """Yield lines, of what hinders most first; ``record`` is that of `examine.doctor`."""
    yield from _missing(record["machine"])
    if record["gpus"]:
        yield from _of_the_gpu(record)
        yield from _of_kernels(record)
    else:
        yield _why_no_gpu(record)
        yield from _of_the_processor(record)
    yield from _of_training(record)
    yield from _of_decoding(record)
    for name, found in record["measured"].items():
        if found["problem"] and name not in ("decode", "compile", "graph"):
            yield f"{name!r} could not be measured ({found['problem']})"
        for notice in found.get("notices", ()):
            yield f"while {name!r} was measured: {notice}"


def _missing(machine: Record) -> Iterator[str]:
    if machine["missing"]:
        names = " ".join(machine["missing"])
        yield f"packages are missing, without which some commands end: pip install {names}"
    if machine["cache_problem"]:
        yield (
            f"{machine['cache_folder']} cannot be written ({machine['cache_problem']}): what was "
            "found out about a GPU's kernels is found anew by every command; set XDG_CACHE_HOME to "
            "a folder that can be written"
        )


def _why_no_gpu(record: Record) -> str:
    machine, problem = record["machine"], record["gpu_problem"]
    if not machine["driver"]:
        why = "" if "no NVIDIA driver" in problem else f" ({problem})"
        return f"no NVIDIA driver is here{why}: all is done on the processor"
    if not machine["torch_gpu"]:
        return (
            "no GPU is used, though an NVIDIA driver is here: this build of PyTorch is for "
            "processors alone; install its CUDA build (python install_torch.py cuda)"
        )
    return (
        f"no GPU is used, though an NVIDIA driver is here ({problem}): see that nvidia-smi names "
        "the GPU, that CUDA_VISIBLE_DEVICES does not hide it, and that the driver is new enough "
        f"for CUDA {machine['torch_gpu']}"
    )


def _of_the_gpu(record: Record) -> Iterator[str]:
    gpu, measured = record["gpus"][0], record["measured"]
    size, free = gpu["memory_bytes"] / 1e9, gpu["free_bytes"] / 1e9
    if free < (1 - HELD) * size:
        yield (
            f"another program holds {size - free:.0f} of the GPU's {size:.0f} GB: end it "
            "(nvidia-smi names it), or stacks and batches will be smaller"
        )
    if float(gpu["capability"]) < 8:
        yield (
            f"compute capability {gpu['capability']} has no TF32 and no bfloat16: use float32, and "
            "float16 for extraction"
        )
    rates = measured.get("transfer", {}).get("gbyte_s", {})
    if rates and rates["to_gpu"] < SLOW_TRANSFER:
        yield (
            f"copies to the GPU take {rates['to_gpu']:.1f} GB/s: its slot or the virtual machine "
            "is slow; extraction waits for them, training keeps its data there"
        )


def _of_kernels(record: Record) -> Iterator[str]:
    refused: dict[str, list[str]] = {}
    for name, found in record["kernels"].items():
        if found["problem"]:
            refused.setdefault(found["problem"], []).append(name)
    for problem, names in refused.items():
        yield (
            f"kernels not used: {', '.join(names)} ({problem}); plain torch computes the same, "
            "more slowly"
        )
    if refused:
        yield from _what_kernels_need(record["machine"])
    whats = {"graph": "CUDA graphs cannot be used", "compile": "encoders are not compiled"}
    for name, what in whats.items():
        if problem := record["measured"].get(name, {}).get("problem"):
            yield f"{what} here ({problem})"


def _what_kernels_need(machine: Record) -> Iterator[str]:
    if not machine["triton"]:
        yield "kernels need Triton, which is not installed: pip install triton"
    if not machine["compiler"]:
        yield "kernels need a C compiler: apt-get install gcc, or set CC"
    if not machine["headers"]:
        yield "kernels need Python's headers: apt-get install python3-dev"


def _of_the_processor(record: Record) -> Iterator[str]:
    machine = record["machine"]
    if machine["threads"] < machine["cores"]:
        yield (
            f"PyTorch uses {machine['threads']} of {machine['cores']} cores: unset OMP_NUM_THREADS"
        )
    if machine["instructions"] in ("DEFAULT", "NO AVX"):
        yield "this processor has no AVX2, or hides it: products are several times slower"


def _of_training(record: Record) -> Iterator[str]:
    steps = {
        name.partition(" ")[2]: found["ms_a_step"]
        for name, found in record["measured"].items()
        if name.startswith("step ") and not found["problem"]
    }
    usual = steps.pop("float32", None)
    if usual is None:
        return
    # 2,048 clips in batches of 256.
    seconds = usual / 1e3 * 8 * 100 * 1000 / 64
    long = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.1f} s"
    yield (
        f"training, at this rate: 1,000 heads of 512 numbers on 2,048 clips for 100 epochs in "
        f"{long}{'' if record['gpus'] else '; a GPU is what would help'}"
    )
    for name, value in steps.items():
        if value < (1 - SAVED) * usual:
            yield (
                f"--precision {name} takes {value:.3g} ms a step instead of {usual:.3g}"
                f"{'' if name == 'tf32' else '; its products are rounded to 7 bits'}"
            )


def _of_decoding(record: Record) -> Iterator[str]:
    found = record["measured"].get("decode", {})
    if found.get("problem"):
        yield f"no sound can be decoded ({found['problem']}): pip install soundfile soxr"
    elif found:
        cores, rate = record["machine"]["cores"], found["audio_seconds_a_second"]
        yield (
            f"extraction decodes at most {cores * rate / 10:,.0f} clips of 10 s a second on "
            f"{cores} {'core' if cores == 1 else 'cores'}: a faster encoder waits for them; "
            "more cores, or files at the encoder's rate, help"
        )
