"""qamro-head: look at heads, verify and export them, write their cards, fetch and send them."""

import json
from pathlib import Path
from typing import Any

import click

from .common import OneLineGroup, fail, notices_to_stderr, printable, version_option
from .head_export import export
from .options import File, Name
from .tables import show_fields, show_lines

_HEAD = click.argument("head", type=File)


@click.group(cls=OneLineGroup)
@version_option
def main() -> None:
    """Look at heads, verify and export them, write their cards, fetch and send them.

    HEAD is a file of qamro-train, the folder of its run, or a name of a head that comes with the
    package: qamro-head info lists them.
    """


main.add_command(export)


@main.command()
@click.argument("head", type=File, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(head: Path | None, as_json: bool) -> None:
    """Show what a head is, and how good it was found; without HEAD, those of the package."""
    notices_to_stderr()
    if head is None:
        from qamro_cache.heads.names import list_heads

        names = list_heads()
        click.echo(json.dumps(names) if as_json else "\n".join(names))
        return
    from qamro_cache.files import json_text
    from qamro_cache.heads.info import head_info

    record = head_info(head)
    if as_json:
        click.echo(json_text(record))
        return
    try:
        _show(record)
    except (KeyError, TypeError, AttributeError, ValueError):
        fail(f"{head}: its record has figures that qamro-train never wrote; --json shows it")


def _show(record: dict[str, Any]) -> None:
    """Print what ``info --json`` holds for a person to read."""
    from qamro_cache.heads.info import scale_words
    from qamro_cache.reports.numbers import number, short_span

    axes = [
        f"{name} {scale_words(axis)}, "
        f"{axis['members']} members of {axis['parameters'] // axis['members']:,} parameters"
        for name, axis in record["axes"].items()
    ]
    synthetic = " (synthetic: clips or ratings were made by a program)"
    text = record["text_feature"]
    licenses = "; ".join(f"{what}: {words}" for what, words in record["licenses"].items())
    show_fields(
        [
            ("file", record["file"]),
            ("size", f"{record['bytes']:,} bytes"),
            ("sha256", record["sha256"]),
            ("trained on", record["dataset"] + (synthetic if record["synthetic"] else "")),
            ("clips", "not known" if record["clips"] is None else str(record["clips"])),
            ("axes", "; ".join(axes)),
            ("reads", record["feature"] + (f" and the prompt's {text}" if text else "")),
            ("context", record["context"]),
            ("encoders", ", ".join(f"{n} {h[:16]}" for n, h in record["encoders"].items())),
            ("licenses", licenses or "not known"),
        ]
    )
    for axis, found in ((record["figures"] or {}).get("axes") or {}).items():
        if not record["axes"][axis]["judged"]:
            show_lines(f"{axis}: figures of the scores before they were calibrated", hang=2)
        for model in sorted(found["models"], key=lambda one: one != found["head"]):
            scored = found["models"][model]
            told = [
                f"{name.replace('_', ' ')} {number(one['value'])} "
                f"({short_span(one['low'], one['high'])})"
                for name, one in scored["metrics"].items()
                if name in ("clip_srcc", "group_srcc", "system_srcc")
            ]
            show_lines(f"{axis}, {model}: {', '.join(told)}", hang=2)
        show_lines(*(f"{axis}: {verdict['words']}" for verdict in found["verdicts"]), hang=2)


@main.command()
@click.argument("heads", nargs=-1, required=True, type=File)
def verify(heads: tuple[Path, ...]) -> None:
    """Read heads in full: header, record, checksum, shapes, finite numbers."""
    notices_to_stderr()
    from qamro_cache.heads.info import head_info

    for head in heads:
        found = head_info(head)
        numbers = sum(one["parameters"] for one in found["axes"].values())
        click.echo(
            f"{printable(str(head))}: good: {len(found['axes'])} axes, {numbers} parameters, "
            f"{found['bytes']} bytes, sha256 {found['sha256']}"
        )


@main.command()
@_HEAD
@click.option("--name", type=Name(), metavar="OWNER/NAME", help="Repository that it is for.")
@click.option("--out", type=File, help="File to write in place of stdout, such as README.md.")
def card(head: Path, name: str | None, out: Path | None) -> None:
    """Write a head's model card, by the conventions of the Hugging Face hub."""
    notices_to_stderr()
    from qamro_cache.files import refuse_other, write_text
    from qamro_cache.integrations.card import is_card, model_card

    text = model_card(head, name or "")
    if out is None:
        click.echo(text, nl=False)
        return
    refuse_other(out, "card of qamro-head", is_card)
    write_text(out, text)
    click.echo(printable(f"wrote {out}"), err=True)


@main.command()
@_HEAD
@click.argument("name", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--card", type=File, help="Card to send in place of the one that is made.")
def push(head: Path, name: str, private: bool, card: Path | None) -> None:
    """Send a head with its card to a repository of the hub, which is made if need be."""
    notices_to_stderr()
    from qamro_cache.heads.info import head_info
    from qamro_cache.integrations.hub import push as send

    for what, words in head_info(head)["licenses"].items():
        click.echo(printable(f"license of its {what}: {words}"), err=True)
    click.echo(printable(send(head, name, private=private, card=card)))


@main.command()
@click.argument("name", metavar="OWNER/NAME")
@click.option(
    "--revision", type=Name(), default="main", metavar="NAME", help="Branch, tag or commit. [main]"
)
@click.option("--out", type=File, help="File to write; else it stays in the hub's cache alone.")
def pull(name: str, revision: str, out: Path | None) -> None:
    """Fetch a head of a repository of the hub, check it in full, and print where it is."""
    notices_to_stderr()
    from qamro_cache.files import refuse_other, write_file
    from qamro_cache.heads.info import head_info
    from qamro_cache.integrations.hub import pull as fetch

    if out is not None:
        refuse_other(out, "head", lambda there: bool(head_info(there)))
    file = fetch(name, revision)
    for what, words in head_info(file)["licenses"].items():
        click.echo(printable(f"license of its {what}: {words}"), err=True)
    if out is not None:
        data = file.read_bytes()
        write_file(out, lambda target: target.write(data))
    click.echo(printable(str(out or file)))
