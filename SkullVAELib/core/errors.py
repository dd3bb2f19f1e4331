"""The library's one exception class, and any other exception explained in its terms."""

from __future__ import annotations

import errno


class SkullVAEError(Exception):
    """A user-correctable error: its cause and its remedy.

    The command line prints it as one line and exits with code 2; the Slicer module shows it unchanged.

    Parameters
    ----------
    cause : str
        What is wrong.
    remedy : str
        What to do.

    >>> print(SkullVAEError("The file 'a.nrrd' does not exist", "Check the path"))
    The file 'a.nrrd' does not exist. Check the path.
    """

    def __init__(self, cause: str, remedy: str):
        self.cause = " ".join(cause.split()).rstrip(".")
        self.remedy = " ".join(remedy.split()).rstrip(".")
        super().__init__(f"{self.cause}. {self.remedy}.")

    @classmethod
    def from_line(cls, line: str, remedy: str = "See the log") -> SkullVAEError:
        """The error that a command line has printed as one line; `remedy` is used if the line has none.

        >>> SkullVAEError.from_line("The disk is full. Free some space.").remedy
        'Free some space'
        """
        cause, _, given = line.partition(". ")
        return cls(cause, given or remedy)

    def __reduce__(self):
        # By default an exception is pickled by its message alone; a process pool waits forever for one it cannot read.
        return type(self), (self.cause, self.remedy)


_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def explain(error: Exception) -> SkullVAEError:
    """Convert any exception to a SkullVAEError, with its cause and a remedy.

    Parameters
    ----------
    error : Exception
        Returned as it is if it is a SkullVAEError.

    Returns
    -------
    SkullVAEError
        For an unexpected error the remedy is to report it.
    """
    if isinstance(error, SkullVAEError):
        return error
    text = str(error)[:400]
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return SkullVAEError("The graphics card has not enough memory", "Use --device cpu")
    if isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY):
        return SkullVAEError("There is not enough memory", "Close other programs or crop the volume")
    if isinstance(error, ModuleNotFoundError):
        return SkullVAEError(f"The Python package '{error.name}' is missing", f"Install it: pip install {error.name}")
    if isinstance(error, BrokenPipeError):
        return SkullVAEError("The program that read the progress has ended", "Start again")
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return SkullVAEError("The disk is full", "Free some space or choose another output folder")
    if isinstance(error, OSError) and error.strerror:
        where = f" '{error.filename}'" if error.filename else ""
        return SkullVAEError(f"{error.strerror}:{where or ' a file'}", "Check the path and its permissions")
    return SkullVAEError(
        f"Unexpected {type(error).__name__}: {text}", "Please report this with what SKULLVAE_DEBUG=1 prints"
    )


# Phrases of torch, C++, ITK and the loader of shared libraries.
_NO_MEMORY = ("allocate memory", "bad_alloc", "failed to map segment")
