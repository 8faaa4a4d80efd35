"""How much memory and disk is free, asked before much is taken; and freed memory kept for reuse."""

import ctypes
import math
import os
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from qamro_cache.errors import QamroError

#: Of glibc's malloc.h: bytes that a heap keeps when they are freed, and from which on a block is
#: no part of a heap.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGE = 256 << 20, 32 << 20


def keep_freed_memory() -> None:
    """Let this process keep what its threads free, for what they take next; for good.

    glibc gives back the memory of a freed array of some MB and takes it anew for the next one, and
    all threads of a process take in turns: a decoding thread spends a third of its time on that.
    Elsewhere than on glibc nothing is changed.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def refuse_memory(size: float, what: str, mend: str) -> None:
    """Refuse what would not fit in memory.

    Args:
        size: bytes, estimated.
        what: takes them, for the message.
        mend: what to ask for instead.

    Raises:
        QamroError: the estimate is beyond what is free.
    """
    free = free_memory()
    if size > free:
        raise QamroError(
            f"{what} would take about {size / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are "
            f"free; {mend}"
        )


def refuse_disk(size: float, path: Path) -> None:
    """Refuse what would not fit on the disk that ``path`` is to lie on.

    Args:
        size: bytes, estimated.
        path: to be made; its folder need not be there yet.

    Raises:
        QamroError: the estimate is beyond what is free.
    """
    free = free_disk(path)
    if size > free:
        raise QamroError(
            f"{path} cannot be written: it would take about {_size(size)} of disk while it is "
            f"made, and {_size(free)} are free there; make space, or name a place on another disk"
        )


def free_disk(path: Path) -> float:
    """Return the bytes that are free where ``path`` is, or will be; infinite where not known."""
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists():
        folder = folder.parent
    with suppress(OSError):
        usage = shutil.disk_usage(folder)
        # Some network folders have no size.
        return usage.free if usage.total else math.inf
    return math.inf


def _size(size: float) -> str:
    if size < 1e5:
        return f"{size / 1e3:,.1f} kB"
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def free_memory() -> float:
    """Return the bytes that this process may still take; infinite where the system does not say."""
    return max(0.0, min(_limits(), default=math.inf))


def _limits() -> Iterator[float]:
    """Yield what the machine, the container and the process's own limit leave."""
    with suppress(OSError, TypeError):
        found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        yield int(found[1]) * 1024  # type: ignore[index]
    container = Path("/sys/fs/cgroup")
    with suppress(OSError, TypeError, ValueError):  # "max" is no limit
        used = re.search(r"^anon (\d+)", (container / "memory.stat").read_text(), re.MULTILINE)
        yield int((container / "memory.max").read_text()) - int(used[1])  # type: ignore[index]
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own != resource.RLIM_INFINITY:
        with suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            yield own - pages * os.sysconf("SC_PAGE_SIZE")
