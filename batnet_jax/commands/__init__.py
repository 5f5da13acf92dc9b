"""The command line, above the modes: words, help and completion need neither JAX nor a network.

table: every command with its flags and its help, as plain data.
words: `batnet search RUN QUERY` as the promised form, `--mode=search --workdir=RUN --query=QUERY`.
command_line: parses the promised form with absl; checks the flags of the mode.
run: runs the mode, and turns an error into a line and a status.
pages, completion: help and completion by Click, from the table.
listings: `batnet configs` and `batnet fields`.
config_files: the configs that come with the package, by name.
"""
