"""Push an export to the Hugging Face hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)

from rmexp.core.errors import UserError
from rmexp.inference.export import FACTS_FILE

REPLACED = ("*.safetensors", "*.safetensors.index.json", "calibration.json")
"""Files of an earlier export that a push deletes unless it has them: shards of other weights."""

REFUSALS = {
    401: "the hub does not take the token: `hf auth login`, or set HF_TOKEN to a valid one",
    403: "the token may not write there: take a token with write access, or another OWNER",
    404: "the hub does not find it, or the token may not see it",
    409: "something else is writing to it: run the command again",
    413: "the hub refuses files of this size",
    429: "the hub asks for fewer requests: wait a few minutes, then run the command again",
}
"""HTTP status -> what it means here, and the fix."""


def exported_files(folder: Path) -> list[tuple[str, int]]:
    """The files of an export with their sizes in bytes, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in files]


def check_hub_id(repo: str) -> None:
    """Check that a repository can have this name.

    Raises:
        UserError: it cannot.
    """
    try:
        huggingface_hub.utils.validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"hub={repo}: {_first_sentence(error)}") from None
    if "/" not in repo:
        raise UserError(f"hub={repo}: write OWNER/NAME, with your user or organisation as OWNER.")


def check_login(repo: str) -> None:
    """Check that the hub answers and knows the user, before anything is computed.

    Raises:
        UserError: no token, a token that is not valid, or no network.
    """
    if huggingface_hub.get_token() is None:
        raise UserError(f"hub={repo} needs a token: `hf auth login`, or set HF_TOKEN.")
    with _hub_errors(repo):
        huggingface_hub.whoami()


def push(folder: Path, repo: str, private: bool) -> str:
    """Upload an export; weights of an earlier export of rmexp there are replaced.

    Args:
        folder: the export.
        repo: `OWNER/NAME`; it is created if it does not exist.
        private: whether a new repository is private; an existing one stays as it is.

    Returns:
        The URL of the repository.

    Raises:
        UserError: the repository holds something else, or the hub refuses or does not answer.
    """
    api = huggingface_hub.HfApi()
    with _hub_errors(repo):
        try:
            api.create_repo(repo, private=private)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            _check_existing(api, repo)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Export of rmexp",
            delete_patterns=list(REPLACED),
        )
    return f"{api.endpoint}/{repo}"


def _check_existing(api: huggingface_hub.HfApi, repo: str) -> None:
    present = set(api.list_repo_files(repo)) - {".gitattributes"}
    if present and FACTS_FILE not in present:
        raise UserError(f"hub={repo} exists and is no export of rmexp: name another repository.")


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Raise errors of the hub and of the network as one sentence."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError(
            f"hub={repo}: HF_HUB_OFFLINE=1 forbids the network: unset it, or list the files with "
            "task.dry_run=true."
        ) from None
    except (HTTPError, OSError, RuntimeError) as error:
        refused = error if isinstance(error, HfHubHTTPError) else error.__cause__
        if not isinstance(refused, HfHubHTTPError):
            endpoint, cause = huggingface_hub.constants.ENDPOINT, error.__cause__ or error
            raise UserError(
                f"hub={repo}: {endpoint} does not answer ({_first_sentence(cause)}): check the "
                "network, then run the command again."
            ) from error
        status = refused.response.status_code
        reason = REFUSALS.get(status, f"the hub answers {status} ({_first_sentence(refused)})")
        raise UserError(f"hub={repo}: {reason}.") from error


def _first_sentence(error: BaseException) -> str:
    """The first line of an error, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
