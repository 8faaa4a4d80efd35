"""The house: the size of files and functions, and what `import qamro_cache` costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = [*(ROOT / "qamro_cache").rglob("*.py"), *(ROOT / "cli").glob("*.py")]


def test_files_and_functions_are_short():
    long = []
    for path in FILES:
        text = path.read_text()
        if text.count("\n") > 300:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not long


def test_no_test_has_a_stopwatch():
    """On a busy machine it would fail; a hang is ended by a deadline of minutes."""
    for path in sorted((ROOT / "tests").glob("*.py")):
        clocks = re.findall(
            r"\b(?:perf_counter|process_time|time\.time|timeit)\b", path.read_text()
        )
        assert not clocks or path.name == "test_house.py", path
        for seconds in re.findall(r"monotonic\(\) ([-+]) (\w+)", path.read_text()):
            assert seconds[0] == "+", f"{path} measures"
            assert int(seconds[1]) >= 60, f"{path} has a deadline of {seconds[1]} s"


def test_the_library_never_prints_and_never_imports_click():
    for path in (ROOT / "qamro_cache").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"click", "unittest"} & {name.split(".")[0] for name in names}, path
            called = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(called, ast.Name) and called.id == "print"), path


def test_importing_a_command_loads_nothing_heavy():
    code = (
        "import sys; from importlib import import_module\n"
        "for name in ('train', 'ablate', 'extract', 'predict', 'evaluate', 'report', 'cache',\n"
        "             'head', 'filter'):\n"
        "    import_module(f'qamro_cache_cli.{name}')\n"
        "heavy = {'torch', 'transformers', 'soundfile', 'rich', 'pandas', 'numpy', 'h5py'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
