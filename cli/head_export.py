"""qamro-head export: a head as a program that runs without this package."""

from pathlib import Path

import click

from .common import notices_to_stderr, printable
from .options import File


@click.command()
@click.argument("head", type=File)
@click.option("--out", type=File, required=True, help="File to make: .onnx, or .pt2 (torch).")
@click.option("--json", "as_json", is_flag=True, help="Print what the file says of itself.")
def export(head: Path, out: Path, as_json: bool) -> None:
    """Write a head as a program from a clip's vector to ratings: ONNX, or torch.export."""
    notices_to_stderr()
    from qamro_cache.files import json_text
    from qamro_cache.integrations.export import export_head

    about = export_head(head, out)
    if as_json:
        click.echo(json_text(about))
        return
    for name, one in about["inputs"].items():
        click.echo(printable(f"in   {name} {_shape(one['shape'])}: {one['about']}"))
    axes = ", ".join(
        f"{one['name']} "
        + ("in standard units" if one["low"] is None else f"{one['low']:g} to {one['high']:g}")
        for one in about["axes"]
    )
    for name, one in about["outputs"].items():
        click.echo(printable(f"out  {name} {_shape(one['shape'])}: {one['about']}"))
    click.echo(printable(f"axes {axes}"))
    click.echo(printable(f"written: {out}"), err=True)


def _shape(sizes: list[str | int]) -> str:
    return f"[{', '.join(map(str, sizes))}]"
