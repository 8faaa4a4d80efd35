"""Run one command with a fault at each of some calls; ``test_faults.py`` starts it with the shim.

``fault_runner.py COMMAND INPUTS FOLDER [[CALL, ERROR], ...]`` (JSON) prints how many faults were
met, or the first thing that is wrong.
"""

import ctypes
import errno
import json
import os
import re
import shutil
import sys
import traceback
from importlib import import_module
from math import ceil
from pathlib import Path

import torch
from fuzz.commands import files_of, run

from qamro_cache import open_cache
from qamro_cache.datasets import demo

COMMANDS = {
    "extract": "extract --manifest clips.csv --encoder mel --out out/e.h5",
    "dry run": "extract --manifest clips.csv --dry-run --report out/page.html",
    "demo": "extract --dataset demo --data-dir out/set --dry-run",
    "merge": "cache merge a.h5 b.h5 --out out/m.h5",
    "relabel": "cache relabel out/m.h5 --labels labels.csv",
    "relabel beside": "cache relabel a.h5 --labels labels.csv --out out/m.h5",
    "export": "cache export a.h5 --out out/folder",
    "predict": "predict --head track/head.safetensors --cache a.h5 --out out/p.csv "
    "--answer out/answer.txt --answer-list list.txt",
    "predict audio": "predict --head mel/head.safetensors --manifest clips.csv --out out/p.csv",
    "train": "train --cache a.h5 --axis quality --cv 2 --seeds 1 --epochs 1 --out out/run "
    "--save-folds --overwrite --report out/page.html",
    "ablate": "ablate --cache a.h5 --axis quality --cv 2 --seeds 1 --epochs 1 --alpha 0.2,0.5 "
    "--resamples 0 --out out/grid --report out/page.html",
    "evaluate": "evaluate --predictions run/predictions.csv --labels a.h5 --resamples 0 "
    "--report out/page.html",
    "ensemble": "ensemble grid --out out/run --members 2",
    "calibrate": "calibrate --head track --cache b.h5 --labels mine.csv --out out/h.safetensors",
    "pairs": "cache pairs a.h5 --out out/pairs.csv",
    "filter": "filter --predictions old.csv --min overall:2 --out out/kept",
    "head card": "head card track --out out/README.md",
    "head export": "head export mel --out out/h.pt2",
    **{
        f"report {form}": f"report run --format {form} --out out/page.{form}"
        for form in ("html", "md", "tex", "pdf", "png")
    },
}
#: Outputs that hold the time.
TIMED = {"train": "run"}
shim = ctypes.CDLL(None)


def command(line: str, folder: Path, at: int = 0, error: str = "") -> tuple[int, int]:
    """Run a command in a forked child; return its exit code and how many calls it made.

    The child leaves with 9 and a traceback where the command's error is not one line.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as lines:
            text = lines.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 1), f"{line}, call {at}, {error}: {code} {text}"
        return code, int(text)
    os.chdir(folder)
    name, *arguments = line.split()
    main = import_module(f"qamro_cache_cli.{name}").main
    os.environ["FAULT_FOLDER"] = str(folder)
    if at:
        os.environ |= {"FAULT_AT": str(at), "FAULT_ERRNO": str(getattr(errno, error))}
    words = [os.strerror(getattr(errno, error))] if at else []
    shim.fault_calls()
    try:
        code, _ = run(main, *arguments, words=words)
        answer = str(shim.fault_calls())
    except BaseException:
        code, answer = 9, traceback.format_exc()
    os.environ.pop("FAULT_FOLDER")
    os.write(writer, answer.encode())
    os._exit(code)


def start(name: str, inputs: Path, folder: Path) -> dict[str, bytes]:
    """Make a folder with what the command replaces, and return that."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(inputs, folder)
    out = folder / "out"
    out.mkdir()
    line = COMMANDS[name]
    for target, source in (("m.h5", "a.h5"), ("p.csv", "old.csv"), ("answer.txt", "old.txt")):
        if f"out/{target}" in line:
            shutil.copy(folder / source, out / target)
    if "--overwrite" in line:
        shutil.copytree(folder / "run", out / "run")
        (out / "run" / "notes.txt").write_text("mine")
    if ending := re.search(r"out/page\.(\w+)", line):
        kept = out / "page_figures" if ending[1] in ("md", "tex") else out / "page.png"
        if ending[1] in ("md", "tex", "png"):
            kept.mkdir()
            (kept / "01-old.png").write_text("old")
            (kept / "01-old.pdf").write_text("old")
        if ending[1] != "png":
            (out / f"page.{ending[1]}").write_text("old, made by qamro_cache")
    return files_of(out)


def outputs(name: str, folder: Path) -> dict[str, bytes]:
    """Return the files in ``out``; of an extraction, whose caches hold the time, the contents."""
    found = files_of(folder / "out")
    if "e.h5" in found:
        found["e.h5"] = open_cache(folder / "out/e.h5").content_sha256.encode()
    return found


def check(name: str, inputs: Path, folder: Path, cases: list[tuple[float, str]]) -> int:
    """Run a command with each fault; return how many were met by an error."""
    line = COMMANDS[name]
    if name == "demo":  # a sound of each system is enough
        demo.CONTENTS = demo.CONTENTS[:1]
    # Once in this process, so that no child has to load anything.
    start(name, inputs, folder)
    program, *arguments = line.split()
    os.chdir(folder)
    assert run(import_module(f"qamro_cache_cli.{program}").main, *arguments)[0] == 0
    before = start(name, inputs, folder)
    code, calls = command(line, folder)
    assert code == 0, line
    after = outputs(name, folder)
    met = 0
    for number, error in cases:
        start(name, inputs, folder)
        # A share of the calls, or the number of one, the last of which is 0.
        at = ceil(number * calls) if isinstance(number, float) else (number - 1) % calls + 1
        code, _ = command(line, folder, at, error)
        met += code
        what = f"{name}, call {at} of {calls}, {error}: "
        check_whole(name, outputs(name, folder), before, after, code, what)
        # The same again, on a disk that works; an export that was whole by then is one already.
        again, _ = command(line, folder)
        assert again == 0 or (name, code) == ("export", 0), what + "not repeatable"
        found = outputs(name, folder)
        assert found.keys() == after.keys(), what + str(found.keys() ^ after.keys())
        assert untimed(name, found) == untimed(name, after), what + "another result"
    return met


def untimed(name: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what holds the time."""
    return {path: data for path, data in files.items() if not path.startswith(TIMED.get(name, "-"))}


def check_whole(
    name: str, found: dict[str, bytes], before: dict[str, bytes], after: dict[str, bytes],
    code: int, what: str,
) -> None:  # fmt: skip
    """See that each output is all old or all new; only a failed cleanup leaves something."""
    left = [path for path in found if ".tmp" in path or ".old" in path]
    assert not left or code, what + str(left)
    notes = "run/notes.txt"
    if notes in before:
        assert found.get(notes) == before[notes], what + "the notes are gone"
    of, old, new = (of_outputs(files, [*left, notes]) for files in (found, before, after))
    for output in of.keys() | old.keys() | new.keys():
        one = of.get(output)
        whole = one in (old.get(output), new.get(output))
        if output == TIMED.get(name) and one is not None:
            whole = whole or one.keys() == new[output].keys()
        assert whole, f"{what}{output} is neither the old nor the new: {sorted(one or ())}"


def of_outputs(files: dict[str, bytes], without: list[str]) -> dict[str, dict[str, bytes]]:
    """Return the files of each output: those of a folder belong together.

    What is done of an extraction or a prediction is kept beside it, and trained heads in the
    grid's folder.
    """
    found: dict[str, dict[str, bytes]] = {}
    for path, data in files.items():
        output = path.partition("/")[0]
        kept = output.endswith(".parts") or ".emb-" in output or "/done/" in path
        if path not in without and not kept:
            found.setdefault(output, {})[path] = data
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen, inputs, folder, cases = sys.argv[1:]
    print(check(chosen, Path(inputs), Path(folder), json.loads(cases)))
