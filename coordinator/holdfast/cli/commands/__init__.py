"""The commands, by what they are about. Each module registers its own on the application.

A command reads its flags, does its work by the other modules, prints the answer. What it needs it
imports when it runs: `holdfast --help` must not wait for SQLAlchemy.
"""

from holdfast.cli.commands import catalog, health, letters, runs, services

__all__ = ["catalog", "health", "letters", "runs", "services"]
