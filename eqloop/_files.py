"""Files that are there whole or not at all, that one process at a time may hold, and that are read
without waiting; and the folder of the cache."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import platform
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_LOG = logging.getLogger(__name__)

TEMPORARY = ".tmp"
_SUFFIXES = (TEMPORARY, ".part")  # the second one of versions before this one
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What `flock` says where the file system has no locks."""
LARGEST = 1 << 30
"""Bytes of a file that is read at once: far more than any of ours has."""


# --- writing


def write_atomic(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write `chunks` to `path`, as `replacing` does."""
    with replacing(path) as file:
        for chunk in chunks:
            file.write(chunk)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` atomically when the context ends without an exception.
    Readers see either the old file or the new one.

    The file has another name in the same folder, `.NAME.RANDOM.tmp`, and is locked until then.
    Leftovers of killed processes for the same `path` are removed.

    **Raises** `OSError` if that is not possible, or if `path` is not a regular file: a link, a pipe
    or a device is never replaced.
    """
    refuse_special(path)
    own = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{8}})?({'|'.join(_SUFFIXES)})")
    _remove_dead(path.parent, own)
    file, temporary = _locked_temporary(path)
    try:
        with file:
            yield file
            # The bytes are on the disk before the name is: without the first `fsync` a power cut
            # could leave the new name on an empty file, without the second the old on the old.
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers left in `folder` that were killed; those that are at work go on."""
    _remove_dead(folder, re.compile(rf"\..*({'|'.join(_SUFFIXES)})", re.DOTALL))


def _locked_temporary(path: Path) -> tuple[BinaryIO, Path]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        file = temporary.open("x+b")
        try:
            if _lock(file.fileno(), path.parent) and _is_at(file.fileno(), temporary):
                return file, temporary
        except BaseException:
            file.close()
            raise
        file.close()  # another process removed the leftovers before this one had the lock


def _remove_dead(folder: Path, name: re.Pattern[str]) -> None:
    """Remove the files with matching names that no process has locked."""
    try:
        dead = [path for path in folder.iterdir() if name.fullmatch(path.name)]
    except FileNotFoundError:
        return
    for path in dead:
        with contextlib.suppress(OSError), _open(path, os.O_RDWR) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file.fileno(), path):
                path.unlink()


# --- one at a time


class Held(Exception):
    """Another process holds the lock; the text says which one."""


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for as long as the context lasts; it is removed afterwards.

    The lock is the operating system's (`flock`): it ends with the process, however that ends, so a
    file that a killed process left is free. On several machines the file system must support it
    (NFS does since Linux 2.6.12); one without locks is logged as a warning, once, and taken for
    free.

    **Raises** `Held` where another process has it, `OSError` where the file cannot be made.
    """
    while True:
        file = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            if not _lock(file.fileno(), path.parent):
                words = file.read(200).decode(errors="replace").split()
                who = f"process {words[0]} on {words[1]}" if len(words) == 2 else "another process"
                raise Held(who)
            if _is_at(file.fileno(), path):
                break
        except BaseException:
            file.close()
            raise
        file.close()  # its holder has just removed it
    with file:
        file.truncate(0)
        file.write(f"{os.getpid()} {platform.node() or 'this machine'}\n".encode())
        file.flush()
        try:
            yield
        finally:
            if _is_at(file.fileno(), path):
                path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path` (`exclusive`). Nothing is written or removed."""
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or the file system has no locks
        return False
    return False


def _lock(descriptor: int, folder: Path) -> bool:
    """Whether the file is now ours, or cannot be locked at all."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _say_no_locks(folder)
    return True


@functools.cache
def _say_no_locks(folder: Path) -> None:
    _LOG.warning(
        "%s is on a file system without locks: see to it that only one process writes there", folder
    )


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still has the name `path`."""
    try:
        there = path.stat(follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


# --- reading


def read_bytes(path: Path) -> bytes:
    """What a regular file holds. **Raises** `OSError` for anything else, as `open_regular`, and for
    more than `LARGEST` bytes."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise OSError(errno.EFBIG, f"it has more than {LARGEST >> 20:,} MiB")
        return file.read()


def open_regular(path: Path) -> BinaryIO:
    """Open `path` for reading. **Raises** `OSError` at once if it is not a regular file: pipes and
    devices are not read."""
    return _open(path, os.O_RDONLY)


def _open(path: Path, flags: int) -> BinaryIO:
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except ValueError:
        raise OSError(errno.EINVAL, "a name cannot contain NUL") from None
    try:
        if wrong := _special(os.fstat(descriptor)):
            raise wrong
        return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "r+b")
    except BaseException:
        os.close(descriptor)
        raise


def refuse_special(path: Path) -> None:
    """**Raises** `OSError` if `path` exists and is not a regular file."""
    try:
        wrong = _special(path.lstat())
    except FileNotFoundError:
        return
    except ValueError:
        raise OSError(errno.EINVAL, "a name cannot contain NUL") from None
    if wrong:
        raise wrong


def kind_of(mode: int) -> str:
    """The kind of a special file, in words; "" for a regular file. `mode` is from `os.stat`."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "")


def _special(status: os.stat_result) -> OSError | None:
    kind = kind_of(status.st_mode)
    code = errno.EISDIR if kind == "a folder" else errno.EINVAL
    return OSError(code, f"it is {kind}, and only regular files will do") if kind else None


# --- the cache


def cache_folder() -> Path | None:
    """`$EQLOOP_CACHE`, else `$XDG_CACHE_HOME/eqloop`, else `~/.cache/eqloop`; it is not created.
    **Returns** None, and logs one warning, for a user without a home folder."""
    if folder := os.environ.get("EQLOOP_CACHE"):
        return Path(folder)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "eqloop"
    try:
        return Path.home() / ".cache" / "eqloop"
    except RuntimeError:
        _warn_no_home()
        return None


@functools.cache
def _warn_no_home() -> None:
    _LOG.warning("there is no home folder, so nothing is cached; set EQLOOP_CACHE to a folder")
