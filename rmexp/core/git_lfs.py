"""Pointers of git-lfs: short texts in place of large files that were not downloaded."""

from rmexp.core.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_lfs_pointer(start: bytes, name: str) -> None:
    """Refuse a file that is a pointer.

    Args:
        start: the first bytes of the file.
        name: the file, for the message.

    Raises:
        UserError: it is a pointer.
    """
    if start.startswith(POINTER):
        raise UserError(
            f"{name} is a git-lfs pointer, not the file itself: run `git lfs pull` in its clone, "
            "or download the file."
        )
