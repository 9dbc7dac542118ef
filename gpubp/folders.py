"""Where files are kept that can be had again: compiled kernels, downloaded data."""

from __future__ import annotations

import errno
import os
from pathlib import Path


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
