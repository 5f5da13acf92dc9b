"""A terminal without a screen: what a process writes to it, and what a user would see."""

import fcntl
import os
import re
import struct
import sys
import termios
import threading

COLUMNS, ROWS = 100, 30


class Terminal:
    """The two ends of a terminal; `stream` is what a process has as its stdout or stderr."""

    def __init__(self):
        self._own, their = os.openpty()
        fcntl.ioctl(their, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.stream = open(their, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._read = b""
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self):
        while True:
            try:
                part = os.read(self._own, 2**16)
            except OSError:  # the other end is closed
                return
            self._read += part

    def close(self):
        """Close both ends; return all that was written."""
        self.stream.close()
        self._thread.join()
        os.close(self._own)
        return self._read.decode()


def on_screen(written):
    """Return the rows that stand on the screen after a text was written."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif part == "\x1b[A":
            row -= 1
        else:
            line = rows[row].ljust(column)
            rows[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in rows]


def attach(monkeypatch):
    """Make a terminal the stdout and stderr of this process; return it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal.stream)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    return terminal
