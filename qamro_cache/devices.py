"""Which torch device the work is done on, and whether it is there."""

from qamro_cache.errors import QamroError


def refuse_device(name: str) -> None:
    """Refuse a device that was named and is not there; torch is loaded only for a GPU's name."""
    if name:
        usable_device(name)


def usable_device(name: str = "") -> str:
    """Return a torch device that tensors can be made on; a GPU if there is one and none is named.

    Raises:
        QamroError: no such device in this machine, or in this build of torch.
    """
    if name == "cpu":
        return name
    import torch

    if not name:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
        if kind == "meta":
            raise RuntimeError("it holds no values")
        # Copying there and back: some devices exist by name alone.
        torch.zeros(1).to(name).cpu()
    except (
        Exception
    ) as error:  # each backend has its own: RuntimeError, AssertionError, ImportError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise QamroError(
            f"device {name!r} cannot be used here ({reason[:200]}); use cpu, cuda or cuda:N"
        ) from None
    return name
