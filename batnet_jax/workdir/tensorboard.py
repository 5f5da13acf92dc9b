"""TensorBoard's event files, written without a buffer.

tensorboardX's `SummaryWriter` writes them in a thread. On a full disk the thread dies and the run
waits for the thread for ever, and a killed process loses all events that were not yet flushed.
"""

import platform
import re
import struct
import time
from pathlib import Path

_NUMBER = re.compile(r"events\.out\.tfevents\.([0-9]{1,10})\.")


class Events:
    """An event file of scalars; a run has one for each start."""

    def __init__(self, folder: Path, step: int):
        """Make the file.

        Args:
          folder: of the run's event files; made if it does not exist.
          step: steps taken so far. TensorBoard drops events of later steps in earlier files.
        """
        from tensorboardX.proto import event_pb2  # imports PyTorch where that is installed
        from tensorboardX.record_writer import masked_crc32c

        self._event = event_pb2.Event
        self._checksum = masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of these numbers, so a number is higher than all
        # earlier ones even if the clock was set back.
        names = [_NUMBER.match(path.name) for path in folder.iterdir()]
        numbers = [int(name[1]) for name in names if name]
        number = max([int(time.time()), *(n + 1 for n in numbers)])
        path = folder / f"events.out.tfevents.{number:010}.{platform.node()}"
        self._file = path.open("xb", buffering=0)  # the write itself raises on a full disk
        self._write(file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.SessionStatus.Value("START"))
        self._write(step=step + 1, session_log=start)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point."""
        summary = {"value": [{"tag": name, "simple_value": value}]}
        self._write(step=step, summary=summary)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **fields: object) -> None:
        """Add a record: length, the length's checksum, an event, the event's checksum."""
        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        sums = [struct.pack("<I", self._checksum(part)) for part in (length, event)]
        self._file.write(length + sums[0] + event + sums[1])
