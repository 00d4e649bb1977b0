"""What the audit's agents hand to each other: plain data, nothing that acts.

A field holds no time, no random id and no secret's value; every list is sorted by whoever made it.
That is what makes two audits of the same folder give the same bytes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

__all__ = [
    "Audit",
    "FileChanges",
    "FileList",
    "Finding",
    "Findings",
    "History",
    "HistoryRequest",
    "HotSpot",
    "Inspection",
    "LeftOut",
    "ListRequest",
    "Metrics",
    "PlacedFinding",
    "PlacedSecret",
    "Reading",
    "Report",
    "ReportRequest",
    "Secret",
    "Secrets",
    "SourceFile",
]


class ListRequest(BaseModel):
    """What the scout is asked: list ``folder``, but not the report that goes to ``out``."""

    folder: str
    out: str


class SourceFile(BaseModel):
    """One file to inspect. ``path`` is relative to ``folder`` and uses ``/``."""

    folder: str
    path: str
    size_bytes: int


class LeftOut(BaseModel):
    """A file that was found and is not inspected, and why."""

    path: str
    reason: str


class FileList(BaseModel):
    """What the scout found, sorted by path. ``name`` is the folder's own name, for the title."""

    name: str
    found_by: Literal["git", "walk"]
    note: str
    files: list[SourceFile]
    left_out: list[LeftOut]


class Reading(BaseModel):
    """What a file is. Its text stays in the file: it may hold secrets, and a journal must not.

    The later steps read the file again and compare ``digest`` (SHA-256, hexadecimal).
    ``problem`` says why the file cannot be inspected; empty when it can.
    """

    digest: str = ""
    lines: int = 0
    utf8: bool = False
    problem: str = ""


class Metrics(BaseModel):
    """Size and complexity by lizard. ``complexity`` is the sum of the functions' cyclomatic
    complexity, at least 1 for code and 0 for what is no code; ``worst`` names the worst function.
    """

    language: str = ""
    code_lines: int = 0
    functions: int = 0
    complexity: int = 0
    worst: str = ""
    worst_complexity: int = 0
    problem: str = ""


class Finding(BaseModel):
    """One weakness that bandit sees. ``text`` never quotes the source."""

    rule: str
    severity: Literal["high", "medium", "low"]
    line: int
    text: str


class Findings(BaseModel):
    """All of bandit's findings in one file: counted in full, listed up to a bound."""

    high: int = 0
    medium: int = 0
    low: int = 0
    listed: list[Finding] = []
    problem: str = ""


class Secret(BaseModel):
    """Where something like a secret stands. ``fingerprint`` tells equal values from others and is
    too short to confirm a guess by; the value itself is never kept.
    """

    kind: str
    line: int
    fingerprint: str


class Secrets(BaseModel):
    """All that detect-secrets found in one file: counted in full, listed up to a bound."""

    count: int = 0
    listed: list[Secret] = []
    problem: str = ""


class Inspection(BaseModel):
    """All that is known of one file after its inspection. What could not be read has no rest."""

    path: str
    reading: Reading
    metrics: Metrics | None = None
    findings: Findings | None = None
    secrets: Secrets | None = None


class HistoryRequest(BaseModel):
    """What the historian is asked."""

    folder: str


class FileChanges(BaseModel):
    """How often a file that still exists has changed, renames followed."""

    path: str
    commits: int
    authors: int
    added: int
    deleted: int


class History(BaseModel):
    """The change history of a folder, sorted by path. ``note`` says what it lacks, if anything."""

    source: Literal["git", "none"]
    commits: int = 0
    note: str = ""
    changes: list[FileChanges] = []


class ReportRequest(BaseModel):
    """What the editor is asked. Inspections that failed for good are missing."""

    files: FileList
    inspections: list[Inspection]
    history: History
    out: str


class HotSpot(BaseModel):
    """One file of code in the ranking: ``score`` is ``commits`` × ``complexity``."""

    path: str
    score: int
    commits: int
    authors: int
    complexity: int
    code_lines: int
    worst: str
    worst_complexity: int
    weaknesses: int
    secrets: int


class PlacedFinding(BaseModel):
    """A weakness, with its file."""

    path: str
    finding: Finding


class PlacedSecret(BaseModel):
    """A secret, with its file."""

    path: str
    secret: Secret


class Audit(BaseModel):
    """All that the report says. Counts are complete; lists are cut to what a reader can take."""

    name: str
    notes: list[str]
    files: int
    code_lines: int
    commits: int
    code_files: int
    hot_spots: list[HotSpot]
    high: int
    medium: int
    low: int
    findings: list[PlacedFinding]
    secrets: int
    secrets_listed: list[PlacedSecret]
    left_out: int
    left_out_listed: list[LeftOut]


class Report(BaseModel):
    """Where the report is, and its headline figures."""

    markdown: str
    html: str
    plot: str
    files: int
    left_out: int
    hot_spots: list[str]
    weaknesses: int
    secrets: int
