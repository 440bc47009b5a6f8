"""Where a run ran: commit, versions and machine."""

import functools
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rmexp import __version__
from rmexp.config.secrets import words_without_secrets

PACKAGES = ("torch", "transformers", "lightning", "hydra-core", "datasets", "wandb")


def describe_environment(**facts: Any) -> dict[str, Any]:
    """Content of environment.json: commit, versions, machine and the facts given."""
    return {
        "rmexp": __version__,
        **_git(),
        "python": sys.version.split()[0],
        "packages": dict(_versions()),
        "machine": {
            "host": socket.gethostname(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "command": words_without_secrets(sys.argv),
        "directory": os.getcwd(),
        **facts,
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of `PACKAGES`; reading them takes as long as many a head's training."""
    return {name: version(name) for name in PACKAGES}


@functools.cache
def _git() -> dict[str, Any]:
    """Commit and dirty flag of the code when this process started, if it is a checkout."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(
            ["git", "-C", Path(__file__).parent, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit, dirty = None, None
    try:
        if git("ls-files", "--error-unmatch", "__init__.py") is not None:
            commit = git("rev-parse", "HEAD")
            dirty = bool(git("status", "--porcelain", "-uno"))
    except FileNotFoundError:  # no git
        pass
    return {"git_commit": commit, "git_dirty": dirty}
