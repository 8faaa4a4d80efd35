"""Heads sent to the Hugging Face hub, with a card."""

from pathlib import Path

from qamro_cache.errors import QamroError, words_of
from qamro_cache.heads.hub import US, hub_answers, one_line, refuse_name, without_password
from qamro_cache.heads.hub import pull as pull
from qamro_cache.heads.names import HEAD_FILE, head_path
from qamro_cache.integrations.card import model_card
from qamro_cache.paths import PathLike, as_path
from qamro_cache.version import __version__


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

    refuse_name(name)
    file = head_path(head)
    head_info(file)  # Nothing is sent that is no head.
    if card is not None:
        text = _read(as_path(card, "a card"))
    with one_line(name):
        from huggingface_hub import CommitOperationAdd, HfApi, constants

        if card is None:
            text = model_card(head, name)
        if not hub_answers(name):
            raise QamroError(
                f"the hub cannot be reached at {without_password(constants.ENDPOINT)}; mend the "
                "network, HF_ENDPOINT or HF_HUB_OFFLINE"
            )
        api = HfApi(**US)
        api.create_repo(name, private=private, exist_ok=True)
        sent = [
            CommitOperationAdd(HEAD_FILE, file.read_bytes()),
            CommitOperationAdd("README.md", text.encode("utf-8", "surrogateescape")),
        ]
        message = f"A head of qamro_cache {__version__}"
        return str(api.create_commit(name, sent, commit_message=message).commit_url)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QamroError(f"{path} cannot be read as text ({words_of(error)})") from error
