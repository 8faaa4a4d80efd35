"""The one writer: old whole or new whole, links, pipes, leftovers, and who may be replaced."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from qamro_cache import files, temporary
from qamro_cache.errors import QamroError
from qamro_cache.files import (
    json_text,
    refuse_other,
    refuse_same,
    replace_folder,
    replacing,
    write_file,
    write_json,
    write_table,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(code: str, *arguments: object) -> None:
    """Run code that kills its own process."""
    code = "import os\nfrom pathlib import Path\nfrom qamro_cache import files, temporary\n" + code
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_file(path, half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_missing_folders_are_made_and_the_mode_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.json"
    write_json(path, {"x": float("nan"), "y": [1, float("inf")], "é": "é"})
    assert path.read_text() == '{\n  "x": null,\n  "y": [\n    1,\n    null\n  ],\n  "é": "é"\n}\n'
    path.chmod(0o640)
    write_json(path, {})
    assert path.stat().st_mode & 0o777 == 0o640


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    write_table(tmp_path / "t.csv", pd.DataFrame({"clip_id": [name], "x": [0.1]}))
    assert (tmp_path / "t.csv").read_bytes() == b"clip_id,x\ncaf\xe9,0.1\n"


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "out.csv"
    link.symlink_to("store/out.csv")
    write_text(link, "made through a dangling link")
    write_text(link, "replaced through it")
    assert link.is_symlink()
    assert (tmp_path / "store" / "out.csv").read_text() == "replaced through it"
    assert names(tmp_path / "store") == ["out.csv"]


def test_a_loop_of_links_and_a_folder_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(QamroError, match="a cannot be written: Too many levels of symbolic links"):
        write_text(tmp_path / "a", "")
    with pytest.raises(QamroError, match="is a folder; name a file in it"):
        write_text(tmp_path, "")
    with (
        pytest.raises(QamroError, match="Too many levels of symbolic links"),
        replace_folder(tmp_path / "a", ()),
    ):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(QamroError, match=r"cannot be written: (Not a directory|File exists)"):
        write_text(tmp_path / "file" / "x", "")


def test_special_files(tmp_path: Path) -> None:
    write_text(Path("/dev/null"), "x")
    with pytest.raises(QamroError, match="full cannot be written: No space left on device"):
        write_text(Path("/dev/full"), "x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(QamroError, match="pipe cannot be written: No such device"):
        write_text(pipe, "nobody reads")
    with pytest.raises(QamroError, match="is no plain file"), replacing(pipe):
        pass
    got: list[str] = []
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    reader = threading.Thread(target=lambda: got.append(os.fdopen(handle).read()))
    writing = os.open(pipe, os.O_WRONLY)  # so that the reader waits
    reader.start()
    write_text(pipe, "text " * 50_000)
    os.close(writing)
    reader.join()
    assert got == ["text " * 50_000]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_in_a_file_is_shared_with_what_is_printed(tmp_path: Path, name: str) -> None:
    code = (
        "from pathlib import Path; from qamro_cache.files import write_text\n"
        f"print('before', flush=True); write_text(Path('{name}'), 'table\\n'); print('after')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\ntable\nafter\n"
    assert names(tmp_path) == ["out"]


def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "[a]*.txt"
    (tmp_path / ".[a]*.txt.notes.tmp").write_text("of the user")
    killed(
        "import sys\n"
        "with files.replacing(Path(sys.argv[1])) as new:\n"
        "    new.write_text('half'); os.kill(os.getpid(), 9)",
        path,
    )
    assert len(names(tmp_path)) == 2
    with replacing(path) as new:
        new.write_text("live")
        write_text(path, "another one")
        assert path.read_text() == "another one"
    assert path.read_text() == "live"
    assert names(tmp_path) == [".[a]*.txt.notes.tmp", "[a]*.txt"]


def test_only_our_own_files_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def ours(file: Path) -> bool:
        return file.read_text().startswith("ours")

    refuse_other(path, "table", ours)
    path.touch()
    refuse_other(path, "table", ours)
    path.write_text("ours")
    refuse_other(path, "table", ours)
    for data in (b"theirs", b"\xff\xfe"):
        path.write_bytes(data)
        with pytest.raises(QamroError, match="is there already, is no table, and is kept"):
            refuse_other(path, "table", ours)
        refuse_other(path, "table", ours, overwrite=True)
    refuse_other(Path("/dev/null"), "table", ours)


def test_two_outputs_of_one_name(tmp_path: Path) -> None:
    a = tmp_path / "a"
    (tmp_path / "link").symlink_to("a")
    refuse_same(a, None, tmp_path / "b", None)
    for other in (a, tmp_path / "link", tmp_path / "x" / ".." / "a"):
        with pytest.raises(QamroError, match="is named for two outputs"):
            refuse_same(a, tmp_path / "b", other)


def run(out: Path, text: str) -> None:
    with replace_folder(out, ("config.json", "head", "folds")) as new:
        (new / "config.json").write_text(text)
        (new / "folds").mkdir()
        (new / "folds" / "0").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_exchanged_whole(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # as on a network folder or another system
        monkeypatch.setattr(temporary, "_RENAME_EXCHANGE", 1 << 20)
    out = tmp_path / "run"
    run(out, "first")
    (out / "head").write_text("of the first run alone")
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("kept")
    run(out, "second")
    assert names(out) == ["config.json", "folds", "notes"]
    assert (out / "config.json").read_text() == (out / "folds" / "0").read_text() == "second"
    assert (out / "notes" / "mine.txt").read_text() == "kept"
    with pytest.raises(UnicodeEncodeError), replace_folder(out, ("config.json",)) as new:
        (new / "config.json").write_text("third \udc80", encoding="utf-8")
    assert (out / "config.json").read_text() == "second"
    assert names(tmp_path) == ["run"]


def test_an_exchange_that_fails_leaves_the_old_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the names of the new files are other ones: figures that are numbered."""
    out = tmp_path / "figures"
    out.mkdir()
    (out / "01-old.png").write_text("old")
    (out / "notes").write_text("mine")

    class Forbidding:
        def renameat2(self, *arguments: object) -> int:
            ctypes.set_errno(errno.EACCES)
            return -1

    monkeypatch.setattr(temporary.ctypes, "CDLL", lambda *_, **__: Forbidding())
    refused = pytest.raises(QamroError, match="cannot be written: Permission denied")
    with refused, replace_folder(out, ("01-old.png",)) as new:
        (new / "01-new.png").write_text("new")
    assert names(tmp_path) == ["figures"]
    assert names(out) == ["01-old.png", "notes"]


def test_the_folder_one_is_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    for out in (Path(), tmp_path, Path("/proc")):
        with (
            pytest.raises(QamroError, match="the folder you are in, or a mount"),
            replace_folder(out, ()),
        ):
            pass


KILLED_RUN = """
import sys
steps, renamed = int(sys.argv[2]), 0
def stop(step):
    def wrapped(*arguments, **options):
        global renamed
        renamed += 1
        if renamed > steps:
            os.kill(os.getpid(), 9)
        return step(*arguments, **options)
    return wrapped
for module, name in ((os, "rename"), (os, "unlink"), (os, "rmdir"), (os, "fsync")):
    setattr(module, name, stop(getattr(module, name)))
if sys.argv[3] == "two":
    temporary._RENAME_EXCHANGE = 1 << 20
with files.replace_folder(Path(sys.argv[1]), ("config.json", "head")) as new:
    (new / "config.json").write_text("new")
    (new / "head").write_text("new")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("way", ["at once", "two"])
def test_killed_at_any_step(tmp_path: Path, way: str) -> None:
    seen = set()
    for steps in range(14):
        folder = tmp_path / f"{steps}"
        out = folder / "run"
        out.mkdir(parents=True)
        for name in ("config.json", "head", "notes.txt"):
            (out / name).write_text("old")
        killed(KILLED_RUN, out, steps, way)
        files.remove_leftovers(out, ("config.json", "head"))
        assert names(folder) == ["run"]
        assert names(out) == ["config.json", "head", "notes.txt"]
        content = {name: (out / name).read_text() for name in names(out)}
        assert content.pop("notes.txt") == "old"
        assert len(set(content.values())) == 1
        seen |= set(content.values())
    assert seen == {"old", "new"}


@pytest.mark.parametrize("error", [OSError(28, "x"), PermissionError(13, "x")])
def test_errors_are_in_the_systems_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object) -> None:
        raise error

    writers: list[Callable[[], object]] = [
        lambda: write_text(tmp_path / "a", "x"),
        lambda: run(tmp_path / "run", "x"),
    ]
    monkeypatch.setattr(os, "fsync", refuse)
    for write in writers:
        with pytest.raises(QamroError) as caught:
            write()
        assert f"cannot be written: {os.strerror(error.errno)};" in str(caught.value)
    assert names(tmp_path) == []


def test_json_text_leaves_numbers_alone() -> None:
    assert json_text({"a": 0.1, "b": (1, None), "c": True}).split() == [
        "{", '"a":', "0.1,", '"b":', "[", "1,", "null", "],", '"c":', "true", "}"
    ]  # fmt: skip


def test_folders_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(9, "x")

    monkeypatch.setattr("fcntl.flock", none)
    leftover = tmp_path / ".a.0123abcd.tmp"
    leftover.touch()
    write_text(tmp_path / "a", "x")
    run(tmp_path / "run", "first")
    run(tmp_path / "run", "second")
    assert (tmp_path / "run" / "config.json").read_text() == "second"
    # Nobody knows whether another process writes it.
    assert names(tmp_path) == [".a.0123abcd.tmp", "a", "run"]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write_text(path, "x"),
        lambda path: replace_folder(path, ()).__enter__(),
        lambda path: refuse_other(path, "table", lambda there: True),
    ],
)
def test_a_dash_is_no_file(
    make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other programs print then; ours would leave a file of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QamroError, match=r"^- is no name for an output; name a file"):
        make(Path("-"))
    assert not names(tmp_path)
