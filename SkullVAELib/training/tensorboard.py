"""TensorBoard event files, written where the package tensorboardX is installed."""

from __future__ import annotations

import math
import time
from pathlib import Path


class EventFile:
    """Rows of numbers for TensorBoard; writes nothing where tensorboardX is not installed, or if not wanted.

    Events are written in this thread. tensorboardX's own SummaryWriter passes them to another thread, which ends
    without a message when the disk is full, and the training would then wait for it for ever.

    Parameters
    ----------
    folder : Path
        Folder of the event files; created if missing.
    first_step : int
        First step of this part of the run. TensorBoard hides earlier events of this step and of later ones.
    wanted : bool
        False writes nothing.
    """

    def __init__(self, folder: Path, first_step: int, wanted: bool = True):
        self._file = None
        if not wanted:
            return
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        except ImportError:
            return
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        # Files are named by the second in which they were begun; a run resumed in the same second differs by its step.
        self._file = EventsWriter(str(folder / "events"), f".{first_step}")
        # Makes TensorBoard hide what an interrupted run wrote for this step and later ones.
        self._put(first_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, row: dict) -> None:
        """Add the finite floats of a row by their names, at the step row["step"]."""
        if self._file is not None:
            numbers = {k: v for k, v in row.items() if isinstance(v, float) and math.isfinite(v)}
            values = [self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self._put(row["step"], summary=self._summary(value=values))

    def flush(self) -> None:
        """Write buffered events to the disk."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _put(self, step: int, **content: object) -> None:
        if self._file is not None:
            self._file.write_event(self._event(wall_time=time.time(), step=step, **content))
