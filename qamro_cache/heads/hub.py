"""Heads of the Hugging Face hub, fetched by name; and what goes wrong there, in one line."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qamro_cache.encoders.support import install_line
from qamro_cache.errors import OptionError, QamroError, quoted, words_of
from qamro_cache.heads.file import load_head
from qamro_cache.heads.header import MAX_FILE
from qamro_cache.heads.names import HEAD_FILE, head_path, list_heads
from qamro_cache.version import __version__

#: What this package calls itself at the hub.
US: dict[str, Any] = {"library_name": "qamro_cache", "library_version": __version__}
#: Seconds that the hub has to answer at all.
_PATIENCE = 10


def pull(name: str, revision: str = "main") -> Path:
    """Fetch a head from a repository of the hub into the hub's cache, and check it in full.

    What is there already is not fetched again; without a network it is used as it is.

    Args:
        name: ``owner/name`` of a repository, or a head of `list_heads`, for which nothing is
            fetched.
        revision: a branch, a tag or a commit of the repository.

    Returns:
        The file.

    Raises:
        OptionError: it is no name of a repository.
        QamroError: huggingface_hub is not installed; there is no such repository or head, or no
            way to it; or what was fetched is no head (see `load_head`).
    """
    if name in list_heads():
        return head_path(name)
    refuse_name(name)
    with one_line(name, revision):
        from huggingface_hub import hf_hub_download

        if not hub_answers(name, revision):
            file = Path(hf_hub_download(name, HEAD_FILE, revision=revision, local_files_only=True))
            load_head(file)
            return file
        asked = hf_hub_download(name, HEAD_FILE, revision=revision, dry_run=True, **US)
        if (asked.file_size or 0) > MAX_FILE:  # before it fills the disk
            raise QamroError(
                f"{HEAD_FILE} of {name} has {asked.file_size} bytes, more than a head can have "
                f"({MAX_FILE}); name another repository"
            )
        file = Path(hf_hub_download(name, HEAD_FILE, revision=revision, **US))
    load_head(file)
    return file


def hub_answers(name: str, revision: str = "main") -> bool:
    """Return whether the hub says anything at all; asked once, with little patience.

    The hub's library would ask six times within half a minute, and tell each time.
    """
    from huggingface_hub import get_session, hf_hub_url

    address = hf_hub_url(name, HEAD_FILE, revision=revision)
    try:
        get_session().request("HEAD", address, timeout=_PATIENCE)
    except Exception:  # no network, no such host, an address that is none, told to be offline
        return False
    return True


def refuse_missing_hub() -> None:
    """Refuse what needs huggingface_hub where that is not installed.

    Raises:
        QamroError: with the line that installs it.
    """
    if find_spec("huggingface_hub") is None:
        raise QamroError(f"package huggingface_hub is not installed; {install_line('hub')}")


def refuse_name(name: object) -> None:
    """Refuse what is no name of a repository, and everything where huggingface_hub is missing.

    Raises:
        OptionError: it is no ``owner/name``.
        QamroError: with the line that installs the library.
    """
    refuse_missing_hub()
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)  # type: ignore[arg-type]
        right = "/" in str(name)
    except HFValidationError:
        right = False
    if not right:
        known = ", ".join(list_heads())
        raise OptionError(
            f"{quoted(name)} is no repository of the hub, which is written owner/name; "
            f"heads that come with the package: {known or 'none'}"
        )


@contextmanager
def one_line(name: str, revision: str = "") -> Iterator[None]:
    """Tell whatever the hub's library raises in one line."""
    from huggingface_hub import constants, errors

    where = f"{name} at {without_password(constants.ENDPOINT)}"
    # What it says between its tries has the address with whatever password stands in it.
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except QamroError:
        raise
    except errors.GatedRepoError as error:
        raise QamroError(f"{where} asks for consent first; give it on its page") from error
    except errors.RepositoryNotFoundError as error:
        raise QamroError(
            f"{where}: there is no such repository, or you may not see it; mend the name, or log "
            "in with: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise QamroError(f"{where} has no revision {quoted(revision)}") from error
    except errors.RemoteEntryNotFoundError as error:
        raise QamroError(f"{where} has no {HEAD_FILE}, so no head of qamro_cache") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise QamroError(
            f"{where} cannot be reached, and is not in the hub's cache on this machine; mend the "
            "network, HF_ENDPOINT or HF_HUB_OFFLINE"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        said = without_password(error.server_message or words_of(error))
        login = "; log in with: hf auth login" if status in (401, 403) else ""
        raise QamroError(f"{where} answered {status}: {said}{login}") from error
    except Exception as error:  # of httpx, of the disk, of a server that is none
        raise QamroError(
            f"{where}: {without_password(str(error)) or type(error).__name__}"
        ) from error
    finally:
        logger.setLevel(before)


def without_password(said: Any) -> str:
    """Return words in one line, without the password that an address may have."""
    return re.sub(r"//[^/@\s]+@", "//", " ".join(str(said).split()))[:300]
