"""Stacks in training, kept now and then: a grid that was stopped goes on within them.

A stack is a safetensors file in ``begun/`` with the keys of its heads and a sha256; it goes when
the stack is finished.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from qamro_cache.errors import QamroError, words_of
from qamro_cache.experiments.store import stack_name
from qamro_cache.files import write_file
from qamro_cache.heads.file import checksum
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
        from safetensors.torch import save

        size = sum(value.numel() * value.element_size() for value in snapshot.values())
        if not self._works or size > MOST_BYTES:
            return
        tensors = {name: value.detach().cpu().contiguous() for name, value in snapshot.items()}
        text = json.dumps(list(keys))
        data = save(tensors, metadata={"keys": text, "sha256": checksum(text, tensors)})
        try:
            write_file(self._path(keys), lambda file: file.write(data))
        except QamroError as error:
            self._works = False
            logger.warning("%s; the training goes on, without keeping what is not finished", error)

    def read(self, wanted: Mapping[str, int]) -> list[tuple[list[int], dict[str, Tensor]]]:
        """Return the stacks all of whose heads are ``wanted``: (their positions, snapshot)."""
        found = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                keys, tensors = _read(path)
            except Exception as error:  # whatever a damaged file makes the reader raise
                logger.warning("%s cannot be read and is trained again: %s", path, words_of(error))
                continue
            if set(keys) <= wanted.keys():
                found.append(([wanted[key] for key in keys], tensors))
        return found

    def remove(self, keys: Sequence[str]) -> None:
        """Forget a stack that is finished."""
        with suppress(OSError):
            path = self._path(keys)
            path.unlink(missing_ok=True)
            remove_leftovers(path)

    def close(self) -> None:
        """Remove the folder, unless stacks of another grid wait in it."""
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, keys: Sequence[str]) -> Path:
        return self.folder / f"{stack_name(keys)}.safetensors"


def _read(path: Path) -> tuple[list[str], dict[str, Tensor]]:
    from safetensors import safe_open

    # Sizes in the header must add up to the file's: a lie about them takes no memory.
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["sha256"] != checksum(metadata["keys"], tensors):
        raise ValueError("its checksum is wrong")
    return [str(key) for key in json.loads(metadata["keys"])], tensors
