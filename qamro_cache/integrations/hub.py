"""Heads on the Hugging Face hub: fetched by their repository's name, and sent with a card."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qamro_cache.errors import OptionError, QamroError, quoted, words_of
from qamro_cache.heads.names import HEAD_FILE, head_path, list_heads
from qamro_cache.integrations.card import model_card, refuse_missing_hub
from qamro_cache.paths import PathLike, as_path
from qamro_cache.version import __version__


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
    from qamro_cache.heads.file import load_head
    from qamro_cache.heads.header import MAX_FILE

    if name in list_heads():
        return head_path(name)
    _refuse_name(name)
    with _one_line(name, revision):
        from huggingface_hub import hf_hub_download

        asked = hf_hub_download(name, HEAD_FILE, revision=revision, dry_run=True, **_us())
        if (asked.file_size or 0) > MAX_FILE:  # before it fills the disk
            raise QamroError(
                f"{HEAD_FILE} of {name} has {asked.file_size} bytes, more than a head can have "
                f"({MAX_FILE}); name another repository"
            )
        file = Path(hf_hub_download(name, HEAD_FILE, revision=revision, **_us()))
    load_head(file)
    return file


def push(head: PathLike, name: str, *, private: bool = False, card: PathLike | None = None) -> str:
    """Send a head to a repository of the hub, with its card as README.md, in one commit.

    Args:
        head: as `load_head` takes it.
        name: ``owner/name`` of the repository, which is made where there is none.
        private: make a new one private.
        card: text to send in place of the one that `model_card` makes.

    Returns:
        The address of the commit.

    Raises:
        OptionError: it is no name of a repository.
        QamroError: the head or the card cannot be read; huggingface_hub is not installed; nobody
            is logged in, or may not write there; or the hub refuses the card.
    """
    from qamro_cache.heads.info import head_info

    _refuse_name(name)
    file = head_path(head)
    head_info(file)  # Nothing is sent that is no head.
    if card is not None:
        text = _read(as_path(card, "a card"))
    with _one_line(name):
        from huggingface_hub import CommitOperationAdd, HfApi

        if card is None:
            text = model_card(head, name)
        api = HfApi(**_us())
        api.create_repo(name, private=private, exist_ok=True)
        sent = [
            CommitOperationAdd(HEAD_FILE, file.read_bytes()),
            CommitOperationAdd("README.md", text.encode("utf-8", "surrogateescape")),
        ]
        message = f"A head of qamro_cache {__version__}"
        return str(api.create_commit(name, sent, commit_message=message).commit_url)


def _us() -> dict[str, Any]:
    return {"library_name": "qamro_cache", "library_version": __version__}


def _refuse_name(name: object) -> None:
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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QamroError(f"{path} cannot be read as text ({words_of(error)})") from error


@contextmanager
def _one_line(name: str, revision: str = "") -> Iterator[None]:
    """Tell whatever the hub's library raises in one line."""
    from huggingface_hub import constants, errors

    where = f"{name} at {_flat(constants.ENDPOINT)}"
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
        said = error.server_message or words_of(error)
        login = "; log in with: hf auth login" if status in (401, 403) else ""
        raise QamroError(f"{where} answered {status}: {_flat(said)}{login}") from error
    except Exception as error:  # of httpx, of the disk, of a server that is none
        raise QamroError(f"{where}: {_flat(str(error)) or type(error).__name__}") from error


def _flat(said: Any) -> str:
    """Return words in one line, without the password that an address may have."""
    return re.sub(r"//[^/@\s]+@", "//", " ".join(str(said).split()))[:300]
