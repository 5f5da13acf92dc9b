"""The command line: its streams, its signals, its help, and its exit status.

    batnet COMMAND [ARGUMENT ...] [--FLAG=VALUE ...] [--config.FIELD=VALUE ...]
    python -m batnet_jax.main --config=configs/demo.py [--workdir=DIR] [--mode=MODE]
                              [--config.FIELD=VALUE ...]

Both forms run the same code, and both programs take both forms. JAX, which takes seconds, is
imported once there is something to run. Other packages are imported once signals have a handler.
"""

import sys

from batnet_jax.runtime.signals import end_on_signals, ignore_signals

USER_ERROR = 2
RUN_FAILURE = 1
INTERRUPTED = 130


def run(argv: list[str]) -> int:
    """Run a command line; set sys.argv to its long form, because config_flags reads sys.argv.

    Returns: the exit status.
    """
    from batnet_jax.commands import pages
    from batnet_jax.commands.words import to_flags
    from batnet_jax.errors import RunFailure, UserError

    try:
        if pages.show(argv):
            return 0
        sys.argv = to_flags(argv)
        from batnet_jax.commands.run import run_line  # imports JAX

        return run_line(sys.argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except RunFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return RUN_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def main() -> None:
    """Run the command line of the process: of `python -m batnet_jax.main` and of `batnet`."""
    end_on_signals()
    from batnet_jax.errors import RunFailure
    from batnet_jax.runtime.quiet import hush_libraries
    from batnet_jax.runtime.streams import flush_streams, keep_streams

    keep_streams()
    hush_libraries()
    status = run(sys.argv)
    try:
        flush_streams()
    except RunFailure as error:
        print(f"error: {error}", file=sys.stderr)
        status = status or RUN_FAILURE
    ignore_signals()
    if "jax" in sys.modules:
        from batnet_jax.runtime import processes

        processes.leave(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
