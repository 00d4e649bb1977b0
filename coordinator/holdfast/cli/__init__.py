"""The command line, and the processes it runs: the composition roots.

Holds the commands, their settings, what they print, the supervisor behind `dev`, and the services'
surroundings (event loop, signals, logging, metrics, watchdog). May use every other area. Must
never: be imported by one.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that the process was started with; never returns."""
    from holdfast.cli.app import run

    run()
