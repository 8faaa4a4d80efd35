"""Install the build of torch that this machine can use: CUDA's, or the CPU's, a fraction of it.

    python install_torch.py [auto|cpu|cuda]

Where no NVIDIA driver is found, ``auto`` takes the CPU build if the index that pip uses offers
one of the versions of constraints.txt; a torch that is installed already stays.
"""

import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
#: Built against each other: one of another build cannot be loaded.
PACKAGES = ("torch", "torchaudio", "torchvision")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

COST = (
    "the index that pip uses has no CPU build of torch {torch}: what comes now takes about 6 GB of "
    "disk, of which 4 are CUDA and of no use without an NVIDIA GPU. To avoid that, stop (Ctrl-C), "
    "set PIP_EXTRA_INDEX_URL to an index of torch's CPU builds (pytorch.org, Get Started, CPU "
    "names one) and start again"
)


def pinned() -> dict[str, str]:
    """Return the version of each package in constraints.txt."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name: found[name] for name in PACKAGES}


def has_driver() -> bool:
    """Whether an NVIDIA driver is there."""
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def is_installed(versions: dict[str, str]) -> bool:
    """Whether torch is there in its version, of any build."""
    try:
        return version("torch").partition("+")[0] == versions["torch"]
    except PackageNotFoundError:
        return False


def is_offered(name: str, wanted: str) -> bool:
    """Whether the index that pip uses has a version for this Python and machine."""
    command = [*PIP, "index", "versions", name]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return wanted in re.split(r"[\s,()]+", said)


def choose(build: str, versions: dict[str, str]) -> str:
    """Return ``cpu``, ``cuda`` or, for what is there or the only one there is, nothing."""
    # Other systems have one build.
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return ""
    if build == "auto" and is_installed(versions):
        return ""
    if build == "cuda" or (build == "auto" and has_driver()):
        return "cuda"
    if all(is_offered(name, f"{number}+cpu") for name, number in versions.items()):
        return "cpu"
    if build == "cpu":
        sys.exit(
            f"error: the index that pip uses has no CPU build of torch {versions['torch']}; set "
            "PIP_EXTRA_INDEX_URL to one that has (pytorch.org, Get Started, CPU names one)"
        )
    print(COST.format(**versions), file=sys.stderr)
    return ""


def main() -> None:
    """Choose, and let pip install."""
    build = (sys.argv[1:] or ["auto"])[0]
    if build not in ("auto", "cpu", "cuda"):
        sys.exit(f"error: TORCH={build}: there are auto, cpu and cuda")
    versions = pinned()
    if chosen := choose(build, versions):
        # Of one number, a version with a label is the later one: CUDA's must be asked for.
        rule = "=={0}+cpu" if chosen == "cpu" else "=={0},!={0}+cpu"
        wanted = [name + rule.format(number) for name, number in versions.items()]
        command = [*PIP, "install", "--constraint", str(CONSTRAINTS), *wanted]
        sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
