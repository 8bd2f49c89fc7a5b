"""A built data set on the Hugging Face hub; nothing goes there unless it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tastemaker.errors import StageError, UserError
from tastemaker.stage import Run

__all__ = ["check_login", "push_to_hub"]

_KEPT_HERE = ["manifest.json"]  # holds paths of this machine


def check_login() -> None:
    """Find out before a long build whether there is a token at all.

    Raises:
        UserError: neither `HF_TOKEN` nor a login.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(
            "--push-to-hub: no token of the Hugging Face hub is known here.",
            remedy="Run `hf auth login`, or set HF_TOKEN to a token that may write.",
        )


def push_to_hub(run: Run, repository: str, *, private: bool = True) -> str:
    """Upload the build stage's data set in one commit; the repository is made where missing.

    Args:
        run: Its build stage must be finished.
        repository: Such as `me/movielens-instructions`.
        private: Whether a new repository is private.

    Returns:
        Its address.

    Raises:
        UserError: no finished build stage, no token, or a name that the hub does not allow.
        StageError: the hub refused, or could not be reached.
    """
    folder = run.artefact("build")
    check_login()
    with _online():
        return _uploaded(folder, repository, private=private)


def _uploaded(folder: Path, repository: str, *, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    hub = HfApi()
    try:
        made = hub.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            ignore_patterns=_KEPT_HERE,
            commit_message="Instructions built with tastemaker",
        )
    except HFValidationError as error:
        raise UserError(
            f"--push-to-hub {repository}: {error}", allowed="NAME or OWNER/NAME"
        ) from None
    except Exception as error:  # whatever the connection or the hub raised
        raise StageError(
            f"the hub did not take {repository}: {error}\nThe data set is complete in {folder}; "
            "run the command again to upload it."
        ) from error
    return str(made)


@contextmanager
def _online() -> Iterator[None]:
    """Let the hub be reached meanwhile; everywhere else tastemaker is offline."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
