"""Answers a question from a folder of documents, by quotes that stand where they say.

Four agents: ``planner`` splits the question and plans again where a source is missing, ``reader``
searches a document, ``writer`` chooses quotes and writes the answer, ``critic`` holds them against
the files and sends them back. ``models`` is what they hand to each other, ``agents`` who they are,
``plan`` how the plan grows, ``thinker`` what a model would do: scripted here (``scripted``), so no
account and no network is needed. All else are plain functions that know nothing of agents.
"""

from __future__ import annotations

__all__: list[str] = []
