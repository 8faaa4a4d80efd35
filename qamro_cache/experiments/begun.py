"""Stacks in training, kept now and then: a grid that was stopped goes on within them.

A stack is a safetensors file in ``begun/`` with the keys of its heads and a sha256; it goes when
the stack is finished.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from qamro_cache.errors import QamroError, words_of
from qamro_cache.experiments.store import read_stack, stack_file, write_stack
from qamro_cache.temporary import remove_leftovers

logger = logging.getLogger("qamro_cache")

#: A larger stack (thousands of heads on a GPU) is not kept: it would be copied in memory twice.
MOST_BYTES = 4 << 30


class Begun:
    """The folder of a grid's stacks in training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._works = True

    def keep(self, keys: Sequence[str], snapshot: Mapping[str, Tensor]) -> None:
        """Write a stack's snapshot; a disk that does not take it is no reason to stop training."""
        size = sum(value.numel() * value.element_size() for value in snapshot.values())
        if not self._works or size > MOST_BYTES:
            return
        tensors = {name: value.detach().cpu().contiguous() for name, value in snapshot.items()}
        try:
            write_stack(self.folder, keys, tensors)
        except QamroError as error:
            self._works = False
            logger.warning("%s; the training goes on, without keeping what is not finished", error)

    def read(self, wanted: Mapping[str, int]) -> list[tuple[list[int], dict[str, Tensor]]]:
        """Return the stacks all of whose heads are ``wanted``: (their positions, snapshot)."""
        found = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                keys, tensors = read_stack(path)
            except Exception as error:  # whatever a damaged file makes the reader raise
                logger.warning("%s cannot be read and is trained again: %s", path, words_of(error))
                continue
            if set(keys) <= wanted.keys():
                found.append(([wanted[key] for key in keys], tensors))
        return found

    def remove(self, keys: Sequence[str]) -> None:
        """Forget a stack that is finished."""
        with suppress(OSError):
            path = stack_file(self.folder, keys)
            path.unlink(missing_ok=True)
            remove_leftovers(path)

    def close(self) -> None:
        """Remove the folder, unless stacks of another grid wait in it."""
        with suppress(OSError):
            self.folder.rmdir()
