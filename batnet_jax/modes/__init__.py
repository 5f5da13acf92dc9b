"""The modes of the command line, one file or folder each.

A mode is a module with `run(config, workdir, **flags)`, which does the work. `commands.table` has
its help and its flags; each flag's value comes under the flag's name.
"""
