"""Audits a folder or Git repository: where does change meet complexity?

Four agents: ``scout`` lists the files, ``inspector`` looks into each, ``historian`` reads how often
each changed, ``editor`` writes the report. ``models`` is what they hand to each other, ``agents``
who they are, ``plan`` how they work together; all else are plain functions that know nothing of
agents. Needs git for the history and the extra ``holdfast[audit]``; no account, no network.
"""

from __future__ import annotations

__all__: list[str] = []
