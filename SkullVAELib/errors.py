"""The library's one exception class."""


class SkullVAEError(Exception):
    """Something the user can mend: what is wrong, and what to do about it.

    The command line prints it as one line and exits with code 2; the Slicer module shows it unchanged.

    >>> print(SkullVAEError("The file 'a.nrrd' does not exist", "Check the path"))
    The file 'a.nrrd' does not exist. Check the path.
    """

    def __init__(self, cause: str, remedy: str):
        self.cause = " ".join(cause.split()).rstrip(".")
        self.remedy = " ".join(remedy.split()).rstrip(".")
        super().__init__(f"{self.cause}. {self.remedy}.")

    @classmethod
    def from_line(cls, line: str, remedy: str = "See the log") -> "SkullVAEError":
        """The error that a command line has printed as one line; remedy: what to do where the line tells nothing.

        >>> SkullVAEError.from_line("The disk is full. Free some space.").remedy
        'Free some space'
        """
        cause, _, told = line.partition(". ")
        return cls(cause, told or remedy)

    def __reduce__(self):
        # An exception is pickled by its message alone, and a pool of processes waits for ever for one it cannot read.
        return type(self), (self.cause, self.remedy)
