"""The modes of the command line, one file or folder each.

A mode is a module with `run(config, workdir, **flags)`. `commands.table` declares its help and its
flags; `run` takes the value of each flag as an argument of the same name.

train, eval, report, embed, search, load, serve/, export, import_weights, compare/, metrics, plan,
tables/: the modes.
report_*: parts of the report. embed_shards, shard_folder: `embed` into a folder.
accept, ranked_files: the flag --accept, and the files of `search`. dry_run, next_steps: lines that
`train` prints. flags: the command line as modes see it.
"""
