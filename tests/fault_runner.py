"""Run one command with a fault at each of some calls; ``test_faults.py`` starts it with the shim.

``fault_runner.py COMMAND INPUTS FOLDER [[CALL, ERROR], ...]`` (JSON) prints how many faults were
met, or the first thing that is wrong.
"""

import ctypes
import errno
import json
import os
import shutil
import sys
import traceback
from importlib import import_module
from pathlib import Path

import torch
from fuzz.commands import files_of, run

from qamro_cache import open_cache

COMMANDS = {
    "extract": "extract --manifest clips.csv --encoder mel --out out/e.h5",
    "merge": "cache merge a.h5 b.h5 --out out/m.h5",
    "relabel": "cache relabel out/m.h5 --labels labels.csv",
    "export": "cache export a.h5 --out out/folder",
    "predict": "predict --head run/head.safetensors --cache a.h5 --out out/p.csv",
    "train": "train --cache a.h5 --axis quality --cv 2 --seeds 1 --epochs 1 --out out/run "
    "--save-folds --overwrite",
    "ablate": "ablate --cache a.h5 --axis quality --cv 2 --seeds 1 --epochs 1 --alpha 0.2,0.5 "
    "--resamples 0 --out out/grid",
}
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
    if name in ("merge", "relabel"):
        shutil.copy(folder / "a.h5", out / "m.h5")
    if name == "predict":
        shutil.copy(folder / "old.csv", out / "p.csv")
    if name == "train":
        shutil.copytree(folder / "run", out / "run")
        (out / "run" / "notes.txt").write_text("mine")
    return files_of(out)


def outputs(name: str, folder: Path) -> dict[str, bytes]:
    """Return the files in ``out``; of an extraction, whose caches hold the time, the contents."""
    found = files_of(folder / "out")
    if name == "extract" and "e.h5" in found:
        found["e.h5"] = open_cache(folder / "out/e.h5").content_sha256.encode()
    return found


def check(name: str, inputs: Path, folder: Path, cases: list[tuple[int, str]]) -> int:
    """Run a command with each fault; return how many were met by an error."""
    line = COMMANDS[name]
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
        at = (number - 1) % calls + 1
        code, _ = command(line, folder, at, error)
        met += code
        what = f"{name}, call {at} of {calls}, {error}: "
        check_whole(name, outputs(name, folder), before, after, code, what)
        # The same again, on a disk that works; an export that was whole by then is one already.
        again, _ = command(line, folder)
        assert again == 0 or (name, code) == ("export", 0), what + "not repeatable"
        found = outputs(name, folder)
        assert found.keys() == after.keys(), what + str(found.keys() ^ after.keys())
        if name != "train":  # its config has the time
            assert found == after, what
    return met


def check_whole(
    name: str, found: dict[str, bytes], before: dict[str, bytes], after: dict[str, bytes],
    code: int, what: str,
) -> None:  # fmt: skip
    """See that the outputs are all old or all new; only a failed cleanup leaves something."""
    left = [path for path in found if ".tmp" in path or ".old" in path]
    assert not left or code, what + str(left)
    kept = {path: data for path, data in found.items() if path not in left}
    if name == "extract":  # what is done of it is kept beside the cache
        kept = {path: data for path, data in kept.items() if "/" not in path}
    if name == "ablate":  # and trained heads in the grid's folder
        kept, before, after = (
            {path: data for path, data in files.items() if "/done/" not in path}
            for files in (kept, before, after)
        )
    if name != "train":
        assert kept in (before, after), f"{what}neither the old nor the new: {sorted(kept)}"
        return
    notes = "run/notes.txt"
    assert kept.pop(notes, b"") == before[notes], what + "the notes are gone"
    old = {path: data for path, data in before.items() if path != notes}
    assert kept == old or kept.keys() == after.keys() - {notes}, what + str(sorted(kept))


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen, inputs, folder, cases = sys.argv[1:]
    print(check(chosen, Path(inputs), Path(folder), json.loads(cases)))
