"""Operating-system errors as messages that a user can act on."""

import errno

from ..errors import StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def store_error(exc: OSError, *, action: str, subject: str) -> StoreError:
    """Return the `StoreError` for an `OSError`.

    Args:
        exc: what the system said.
        action: what was tried, such as `"write"`.
        subject: URL or path of the object or file.
    """
    if exc.errno in _FULL:
        reason, hint = "the disk is full", "free some space or name another store, then run again"
    elif exc.errno == errno.EFBIG:
        reason, hint = "the file is larger than this system allows", "raise the file size limit"
    elif exc.errno in _DENIED:
        reason, hint = "permission denied", "make it writable for this user or name another store"
    elif exc.errno in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
        reason = "a file is in the way of a directory, or the other way round"
        hint = "move it away or name another store"
    elif exc.errno == errno.ENAMETOOLONG:
        reason, hint = "the path is too long for this file system", "use a shorter store path"
    else:
        reason = exc.strerror or type(exc).__name__
        hint = "check the disk and run again"
    return StoreError(f"can't {action} {subject}: {reason}", hint=hint)
