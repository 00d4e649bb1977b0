"""Joins what the others found into what the report says. Pure, and deaf to their order."""

from __future__ import annotations

from .models import (
    Audit,
    FileChanges,
    HotSpot,
    Inspection,
    LeftOut,
    Metrics,
    PlacedFinding,
    PlacedSecret,
    ReportRequest,
)

__all__ = ["rank"]

MAX_HOT_SPOTS = 500
MAX_LISTED = 100
_SEVERITIES = ("high", "medium", "low")
_NO_CHANGES = FileChanges(path="", commits=0, authors=0, added=0, deleted=0)


def rank(request: ReportRequest) -> Audit:
    """Rank the files of code by change frequency × complexity and gather all findings.

    Without a history every file counts as changed once, so that complexity alone decides.
    """
    inspected = sorted(request.inspections, key=lambda each: each.path)
    hot_spots = _hot_spots(request, inspected)
    findings = sorted(_placed_findings(inspected), key=_weight)
    secrets = [
        PlacedSecret(path=each.path, secret=secret)
        for each in inspected
        if each.secrets
        for secret in each.secrets.listed
    ]
    left_out = sorted(_left_out(request, inspected), key=lambda entry: (entry.path, entry.reason))
    scans = [each.findings for each in inspected if each.findings]
    return Audit(
        name=request.files.name,
        notes=_notes(request),
        files=len(request.files.files),
        code_lines=sum(each.code_lines for each in hot_spots),
        commits=request.history.commits,
        code_files=len(hot_spots),
        hot_spots=hot_spots[:MAX_HOT_SPOTS],
        high=sum(scan.high for scan in scans),
        medium=sum(scan.medium for scan in scans),
        low=sum(scan.low for scan in scans),
        findings=findings[:MAX_LISTED],
        secrets=sum(each.secrets.count for each in inspected if each.secrets),
        secrets_listed=secrets[:MAX_LISTED],
        left_out=len(left_out),
        left_out_listed=left_out[:MAX_LISTED],
    )


def _hot_spots(request: ReportRequest, inspected: list[Inspection]) -> list[HotSpot]:
    changes = {each.path: each for each in request.history.changes}
    once = request.history.source == "none"
    spots = [
        _hot_spot(each, each.metrics, changes.get(each.path, _NO_CHANGES), once=once)
        for each in inspected
        if each.metrics and each.metrics.complexity
    ]
    return sorted(spots, key=lambda spot: (-spot.score, -spot.complexity, spot.path))


def _hot_spot(each: Inspection, metrics: Metrics, changes: FileChanges, *, once: bool) -> HotSpot:
    return HotSpot(
        path=each.path,
        score=metrics.complexity * (1 if once else changes.commits),
        commits=changes.commits,
        authors=changes.authors,
        complexity=metrics.complexity,
        code_lines=metrics.code_lines,
        worst=metrics.worst,
        worst_complexity=metrics.worst_complexity,
        weaknesses=each.findings.high + each.findings.medium if each.findings else 0,
        secrets=each.secrets.count if each.secrets else 0,
    )


def _placed_findings(inspected: list[Inspection]) -> list[PlacedFinding]:
    """High and medium ones; the many low ones (every ``assert``) are only counted."""
    return [
        PlacedFinding(path=each.path, finding=finding)
        for each in inspected
        if each.findings
        for finding in each.findings.listed
        if finding.severity != "low"
    ]


def _weight(placed: PlacedFinding) -> tuple[int, str, int, str]:
    finding = placed.finding
    return _SEVERITIES.index(finding.severity), placed.path, finding.line, finding.rule


def _left_out(request: ReportRequest, inspected: list[Inspection]) -> list[LeftOut]:
    """What the scout passed over, what a tool could not read, and what never came back."""
    entries = list(request.files.left_out)
    for each in inspected:
        parts = (each.reading, each.metrics, each.findings, each.secrets)
        problems = {part.problem for part in parts if part and part.problem}
        entries += [LeftOut(path=each.path, reason=problem) for problem in problems]
    came_back = {each.path for each in inspected}
    entries += [
        LeftOut(path=source.path, reason="its inspection failed")
        for source in request.files.files
        if source.path not in came_back
    ]
    return entries


def _notes(request: ReportRequest) -> list[str]:
    notes = []
    if request.files.note:
        notes.append(f"Files: {request.files.note}.")
    if request.history.source == "none":
        notes.append(f"No change history ({request.history.note}): ranked by complexity alone.")
    elif request.history.note:
        notes.append(f"History: {request.history.note}.")
    return notes
