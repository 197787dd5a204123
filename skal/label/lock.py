"""One process at a time: an operating-system lock on a file, released when the process that holds it ends."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

if sys.platform == "win32":  # pragma: no cover
    import msvcrt
else:
    import fcntl

#: How the system says that a lock is held.
_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


class FileLock:
    """An exclusive lock that the system releases when its process ends, however it ends.

    Parameters
    ----------
    path : path
        Created if it does not exist. Its content is not used.

    Raises
    ------
    BlockingIOError
        If another process, or another object in this process, holds it.
    OSError
        If the file system has no locks.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if sys.platform == "win32":  # pragma: no cover
                msvcrt.locking(self._file, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if error.errno not in _HELD:  # as on some network file systems
                raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(self.path)) from error
            raise BlockingIOError(
                f"{str(self.path.parent)!r} is open in another process; close it there first"
            ) from error

    @property
    def is_released(self) -> bool:
        return self._file < 0

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
