"""Scans one Python file for weaknesses with bandit, in this process."""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from .models import Finding, Findings, SourceFile
from .reading import Refused, load_unchanged

__all__ = ["scan"]

MAX_LISTED = 50
_SUFFIXES = frozenset({".py", ".pyi", ".pyw"})
_RANKS: dict[str, Literal["high", "medium", "low"]] = {
    "HIGH": "high",
    "MEDIUM": "medium",
    "LOW": "low",
    "UNDEFINED": "low",
}
_ORDER = ("high", "medium", "low")


def scan(source: SourceFile, digest: str) -> Findings:
    """Scan a Python file; any other file has no findings."""
    if Path(source.path).suffix not in _SUFFIXES:
        return Findings()
    try:
        full_path = load_unchanged(source, digest).full_path
    except Refused as refused:
        return Findings(problem=str(refused))
    manager = _manager()
    manager.files_list = [str(full_path)]
    manager.run_tests()
    for _, reason in manager.get_skipped():
        return Findings(problem=f"bandit: {reason}")
    found = sorted((_finding(issue) for issue in manager.get_issue_list()), key=_by_weight)
    counts = Counter(finding.severity for finding in found)
    return Findings(
        high=counts["high"],
        medium=counts["medium"],
        low=counts["low"],
        listed=found[:MAX_LISTED],
    )


def _by_weight(finding: Finding) -> tuple[int, int, str]:
    return _ORDER.index(finding.severity), finding.line, finding.rule


def _finding(issue: Any) -> Finding:
    return Finding(
        rule=str(issue.test_id),
        severity=_RANKS[str(issue.severity)],
        line=int(issue.lineno),
        text=_without_source(str(issue.text)),
    )


def _without_source(text: str) -> str:
    """The first sentence up to where it may quote the source: some rules (B105 to B107, B609)
    print the very password that they found.
    """
    sentence = text.split(". ", maxsplit=1)[0]
    return re.split(r"[:'\"`(]", sentence, maxsplit=1)[0].strip().rstrip(".")


def _manager() -> Any:
    from bandit.core.manager import BanditManager

    return BanditManager(_configuration(), "file")


@functools.cache
def _configuration() -> Any:
    from bandit.core.config import BanditConfig

    # A file that bandit cannot parse is in the report; it need not be on the terminal as well.
    logging.getLogger("bandit").setLevel(logging.CRITICAL)
    # Nor what Python has to say of other people's escape sequences. By module and for good:
    # ``catch_warnings`` is not safe where other threads run.
    warnings.filterwarnings("ignore", category=SyntaxWarning, module=re.escape("<unknown>"))
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=re.escape("<unknown>"))
    return BanditConfig()
