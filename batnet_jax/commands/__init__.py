"""The command line. Help, lists and completion import neither JAX nor a network.

table: every command with its flags and its help, as plain data.
words: turns `batnet search RUN QUERY` into `--mode=search --workdir=RUN --query=QUERY`, the long
    form, which everything behind it reads.
command_line: parses the long form with absl; checks the flags of the mode.
run: runs the mode, and turns an error into a line and a status.
pages, parsers: help by argparse and completion by argcomplete, from the table.
listings: `batnet configs` and `batnet fields`.
known_weights, weights: published weights as plain data, and `batnet weights`.
config_files, saved_config: the configs of the package, and the config that a workdir has saved.
in_python: `train` and `load_config`, the commands as functions.
"""
