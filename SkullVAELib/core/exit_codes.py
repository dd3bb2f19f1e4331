"""Exit codes of the commands; an interrupted or terminated process has 130 or 143."""

DONE, BAD_INPUT, NO_DEFECT = 0, 2, 3
