"""What qamro-cache doctor shows of a machine."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from .common import printable
from .tables import show_fields, show_lines, show_table

Record = Mapping[str, Any]


def show_doctor(record: Record) -> None:
    """Print what `qamro_cache.doctor.examine.doctor` found."""
    show_fields(_machine(record["machine"]))
    for index, gpu in enumerate(record["gpus"]):
        size, free = (gpu[key] / 1e9 for key in ("memory_bytes", "free_bytes"))
        what = f"{gpu['name']}, compute capability {gpu['capability']}, {size:.0f} GB"
        show_fields([(f"GPU {index}", f"{what}, {free:.0f} free")])
    click.echo()
    measured = record["measured"].items()
    show_table(
        [f"measured on {record['device']}", "rate", "unit"],
        [row for name, found in measured for row in _measured(name, found)],
    )
    if record["kernels"]:
        click.echo()
        show_table(
            ["kernels", "agree", "error", "seconds"],
            [
                [name, "no" if found["problem"] else "yes", _short(found.get("error")),
                 _short(found.get("seconds"))]
                for name, found in record["kernels"].items()
            ],
        )  # fmt: skip
    click.echo()
    show_lines(*(f"- {line}" for line in record["advice"]))


def _machine(machine: Record) -> Iterator[tuple[str, str]]:
    gpu = machine["torch_gpu"]
    yield "system", f"{machine['system']}, Python {machine['python']}"
    yield (
        "processor",
        f"{machine['processor']}, {machine['instructions']}, cores: {machine['cores']}, threads of "
        f"PyTorch: {machine['threads']}",
    )
    yield "free memory", f"{machine['free_memory_bytes'] / 1e9:.1f} GB"
    yield "PyTorch", f"{machine['torch']}, {f'for CUDA {gpu}' if gpu else 'for processors alone'}"
    yield "NVIDIA driver", machine["driver"] or "none"
    yield "Triton", machine["triton"] or "none"
    headers = "with" if machine["headers"] else "without"
    yield "C compiler", f"{machine['compiler'] or 'none'}, {headers} Python's headers"
    writable = machine["cache_problem"] or "can be written"
    yield "cache folder", f"{printable(machine['cache_folder'])} ({writable})"
    yield "missing packages", ", ".join(machine["missing"]) or "none"


def _measured(name: str, found: Record) -> Iterator[list[str]]:
    """Yield rows: what, how fast, in what."""
    if found["problem"]:
        yield [name, "-", found["problem"]]
        return
    if name == "compile":
        yield ["compile a small network", _short(found["seconds"]), "s"]
    for key, what, unit in (
        ("gbyte_s", "copy" if name == "transfer" else "memory, read and written", "GB/s"),
        ("tflop_s", "products of matrices", "TFLOP/s"),
        ("us_a_launch", "a launch", "us"),
        ("ms_a_step", f"a {name.replace(' ', ' of training in ')}", "ms, 64 heads"),
        ("audio_seconds_a_second", "decoding, one core", "s of audio a second"),
    ):
        values = found.get(key, {})
        for kind, value in values.items() if isinstance(values, dict) else [("", values)]:
            words = ", ".join(filter(None, (what, kind.replace("_", " "))))
            if unit == "TFLOP/s" and value < 1:  # of a processor
                yield [words, _short(1e3 * value), "GFLOP/s"]
            else:
                yield [words, _short(value), unit]


def _short(value: float | None) -> str:
    """Return a number with three digits; - where there is none."""
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
