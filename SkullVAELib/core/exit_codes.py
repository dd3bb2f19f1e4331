"""What a command's exit code says; 130 and 143 are added by the system's signals."""

DONE, BAD_INPUT, NO_DEFECT = 0, 2, 3
