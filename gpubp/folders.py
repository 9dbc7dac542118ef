"""Names of files, and where files are kept that can be had again: compiled kernels, downloads."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .printable import brief


def path_text(path: str | os.PathLike[str], what: str = "path") -> str:
    """The path as a str; ``what`` is the argument's name where it is none. An int would be taken
    for an open file's number."""
    if not isinstance(path, str | os.PathLike) or not isinstance(text := os.fspath(path), str):
        raise TypeError(
            f"{what}={brief(path)} must be the name of a file or folder, a str or a pathlib.Path"
        )
    if not text:
        raise ValueError(f"{what}='' names nothing: give the name of a file or folder")
    if "\0" in text:
        raise ValueError(f"{what}={brief(text)} holds a zero byte: no file is called so")
    return text


def cache_folder() -> Path:
    """``$GPUBP_CACHE``, else ``user_cache``."""
    named = os.environ.get("GPUBP_CACHE")
    return Path(named) if named else user_cache()


def user_cache() -> Path:
    """The user's cache folder for gpubp; it may not be there yet.

    Raises ``OSError`` where the system names no home for this user, as in some containers.
    """
    import platformdirs

    try:
        folder = Path(platformdirs.user_cache_dir("gpubp"))
    except RuntimeError:  # as newer platformdirs say it
        folder = Path("~")
    if not folder.is_absolute():  # "~" that nobody could expand
        raise OSError(
            errno.ENOENT,
            "there is no home folder: set HOME, or GPUBP_CACHE and GPUBP_DATA, to folders",
        )
    return folder
