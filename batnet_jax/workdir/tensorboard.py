"""TensorBoard's event files, written at once.

tensorboardX's own `SummaryWriter` has a thread write them: on a full disk that dies, and the run
waits for it for ever; and what it has not flushed is lost with a process that is killed.
"""

import platform
import struct
import time
from pathlib import Path


class Events:
    """A file of scalars, one a start of a run."""

    def __init__(self, folder: Path, step: int):
        """Makes the file.

        Args:
          folder: of the run's event files, made if need be.
          step: steps taken so far; TensorBoard drops what earlier files say of later ones.
        """
        from tensorboardX.proto import event_pb2  # imports PyTorch where that is installed
        from tensorboardX.record_writer import masked_crc32c

        self._event = event_pb2.Event
        self._checksum = masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of these numbers: also if the clock went back.
        numbers = [int(p.name.split(".")[3]) for p in folder.glob("events.out.tfevents.[0-9]*")]
        number = max([int(time.time()), *(n + 1 for n in numbers)])
        path = folder / f"events.out.tfevents.{number:010}.{platform.node()}"
        self._file = path.open("xb", buffering=0)  # a full disk is told by the write itself
        self._write(file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.SessionStatus.Value("START"))
        self._write(step=step + 1, session_log=start)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Adds a point."""
        summary = {"value": [{"tag": name, "simple_value": value}]}
        self._write(step=step, summary=summary)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, **fields: object) -> None:
        """Adds a record: length, its checksum, an event, its checksum."""
        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        sums = [struct.pack("<I", self._checksum(part)) for part in (length, event)]
        self._file.write(length + sums[0] + event + sums[1])
