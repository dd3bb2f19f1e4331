"""TensorBoard's event files, where the package tensorboardX is installed."""

from __future__ import annotations

import math
import time
from pathlib import Path


class EventFile:
    """Rows of numbers for TensorBoard; does nothing where tensorboardX is missing, or when it is not wanted.

    Events are written in this thread. tensorboardX's own SummaryWriter hands them to another, which ends without a word
    when the disk is full, and the training would wait for it for ever.
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
        # A file is named by the second it was begun in; the step keeps that of a run resumed at once apart.
        self._file = EventsWriter(str(folder / "events"), f".{first_step}")
        # TensorBoard then hides what an interrupted run wrote of this step and later ones.
        self._put(first_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, row: dict) -> None:
        """Add the numbers of a row, which are its floats, at its step."""
        if self._file is not None:
            numbers = {k: v for k, v in row.items() if isinstance(v, float) and math.isfinite(v)}
            values = [self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self._put(row["step"], summary=self._summary(value=values))

    def flush(self) -> None:
        """Bring to the disk what was written."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _put(self, step: int, **content: object) -> None:
        if self._file is not None:
            self._file.write_event(self._event(wall_time=time.time(), step=step, **content))
