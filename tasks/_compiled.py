"""Functions compiled by Numba; importing this module imports Numba."""

import logging
from collections.abc import Callable
from typing import Any

import numba
import numba.core.config

from .._files import cache_folder

_CONFIG: Any = numba.core.config
_LOG = logging.getLogger(__name__)


def compiled(function: Callable[..., Any]) -> Any:
    """`numba.njit` with machine code cached beside the data (or in $NUMBA_CACHE_DIR). If that
    folder cannot be written, each process compiles the function."""
    before, folder = _CONFIG.CACHE_DIR, cache_folder()
    if not before:
        if folder is None:
            return numba.njit(function)
        # Numba reads its configuration when it decorates: set it for this function only.
        _CONFIG.CACHE_DIR = str(folder / "numba")
    try:
        return numba.njit(cache=True)(function)
    except (OSError, RuntimeError) as error:
        _LOG.warning("compiled code is not cached (%s)", error)
        return numba.njit(function)
    finally:
        _CONFIG.CACHE_DIR = before
