"""The machine under a run: processes, devices, signals, memory, disk and progress bars.

processes, preemption, signals: several processes as one run, and how processes end.
devices, xla_flags, compilation_cache, compile_time: JAX's devices and compiled programs.
tpu_chips, tpu_program: programs that are compiled for a TPU without one.
atomic_write, file_lock, read_files, paths, npz, orbax_calls, download: files.
resource_errors: a full disk or too little memory as one line.
streams, progress, above_bars, quiet: what is printed.
extras, own_code: optional packages, and the user's own modules.
"""
