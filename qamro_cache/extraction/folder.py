"""The work folder beside the output: shards, a lock, and what an earlier run has left.

``emb.h5.parts/`` holds ``part-NNNNNNNN-XXXXXXXX.h5``, cache files of whole units without labels.
"""

import logging
import os
import secrets
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from qamro_cache.cache.content import CacheContent, Header
from qamro_cache.cache.tables import Tables, open_tables
from qamro_cache.cache.writer import check_file, write_cache
from qamro_cache.errors import QamroError
from qamro_cache.files import cannot_write, plain_target
from qamro_cache.temporary import NO_LOCKS, locked, remove_leftovers

logger = logging.getLogger("qamro_cache")


def work_folder(out: Path) -> Path:
    """Return where the shards of an unfinished extraction lie."""
    return out.with_name(out.name + ".parts")


class WorkFolder:
    """The shards of an unfinished extraction, owned by one process at a time.

    The lock is the kernel's (flock), so it goes with the process, however that ends.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = work_folder(out)
        self._lock = ExitStack()
        self._next = 0
        self._written: list[Path] = []

    def __enter__(self) -> "WorkFolder":
        target = plain_target(self.out)
        lock = self.path / "lock"
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock.touch()
            except FileNotFoundError:
                continue  # another process has just finished and removed the folder
            except OSError as error:
                raise cannot_write(self.path, error) from error
            try:
                self._lock.enter_context(locked(lock))
                break
            except FileNotFoundError:
                continue
            except BlockingIOError:
                raise QamroError(
                    f"another extraction is writing {self.out}; wait for it, "
                    "or give this one another --out"
                ) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                logger.warning(
                    "%s cannot be locked (%s); do not start a second extraction on this output",
                    lock,
                    os.strerror(error.errno),
                )
                break
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        remove_leftovers(target)
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            # A run that has made nothing leaves nothing behind.
            if not any(self.path.glob("part-*.h5")):
                shutil.rmtree(self.path)
        self._lock.close()

    def parts(self) -> list[Tables]:
        """Open the shards, oldest first; a damaged one is set aside and its clips done again."""
        sources = []
        for path in sorted(self.path.glob("part-*.h5")):
            self._next = max(self._next, int(path.name[5:13]) + 1)
            try:
                sources.append(check_file(path))
            except QamroError as error:
                logger.warning("%s; its clips are extracted again", error)
                path.replace(path.with_suffix(".damaged"))
        return sources

    def write(self, content: CacheContent, header: Header) -> None:
        """Publish a shard."""
        name = f"part-{self._next:08d}-{secrets.token_hex(4)}.h5"
        self._next += 1
        write_cache(self.path / name, content, header)
        self._written.append(self.path / name)

    def written(self) -> list[Tables]:
        """Open the shards of this run."""
        return [open_tables(path) for path in self._written]

    def clear(self) -> None:
        """Remove every shard, once the output holds their rows."""
        for path in (*self.path.glob("part-*.h5"), *self.path.glob("part-*.damaged")):
            path.unlink(missing_ok=True)
