"""The machine under a run: processes, devices, signals, memory, disk and progress bars."""
