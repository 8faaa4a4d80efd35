"""What goes to the encoder's device and comes back; on a GPU while it computes."""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from qamro_cache.devices import pinned

if TYPE_CHECKING:
    from torch import Tensor

#: Batches that a GPU has and has not done: one is computed while others are copied there.
LEAD = 3
#: Units whose features may be on their way back while a GPU is given the next one.
AHEAD = 2


class Transfer:
    """To a device that answers at once, and back.

    Attributes:
        ahead: units that may be on their way back while the next is given.
    """

    ahead = 0

    def __init__(self, device: str) -> None:
        self.device = device

    def there(self, *batch: "Tensor") -> "list[Tensor]":
        """Return a batch's tensors on the device."""
        return [part.to(self.device) for part in batch]

    def back(self, values: "Tensor") -> "Tensor":
        """Return values on the host; they are there once a mark that is taken after has come."""
        return values.detach().cpu()

    def mark(self) -> Callable[[], None]:
        """Return what waits until the device has done all that it was given so far."""
        return lambda: None

    def beside(self) -> AbstractContextManager[Any]:
        """Let the device do something without waiting for what it was given before."""
        return nullcontext()


class CudaTransfer(Transfer):
    """To a GPU: copies go in streams of their own, and nobody waits but for what he needs."""

    ahead = AHEAD

    def __init__(self, device: str) -> None:
        import torch

        super().__init__(device)
        self._copies, self._beside = (torch.cuda.Stream(device, priority=-1) for _ in range(2))
        self._given: deque[Callable[[], None]] = deque()

    def there(self, *batch: "Tensor") -> "list[Tensor]":
        """As for any; waits for the GPU where it has `LEAD` batches already."""
        import torch

        self._given.append(self.mark())  # of the batch before
        if len(self._given) > LEAD:
            self._given.popleft()()
        here = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            copies = [part.to(self.device, non_blocking=True) for part in batch]
        here.wait_stream(self._copies)
        for copy in copies:
            copy.record_stream(here)
        return copies

    def back(self, values: "Tensor") -> "Tensor":
        """As for any; begins the copy alone."""
        return pinned(values.shape, values.dtype).copy_(values, non_blocking=True)

    def mark(self) -> Callable[[], None]:
        """As for any; the wait takes no processor."""
        import torch

        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize

    def beside(self) -> AbstractContextManager[Any]:
        """As for any."""
        import torch

        return torch.cuda.stream(self._beside)
