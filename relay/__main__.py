"""The command, as `relay` and as `python -m relay`.

`serve` handles signals from the first line on: the imports of the command line and the daemon take most of a second.
"""

import sys


def main() -> None:
    """Run the command line; for `serve`, with signal handlers that already stand."""
    signals = None
    if sys.argv[1:2] == ["serve"]:
        from relay.daemon.signals import Signals

        signals = Signals()
    from relay.cli import main as command

    command(prog_name="relay", obj=signals)


if __name__ == "__main__":
    main()
