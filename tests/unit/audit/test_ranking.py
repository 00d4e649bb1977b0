"""What the report says: order, counts, and independence of the order of what comes in."""

from __future__ import annotations

import random

from examples.audit import ranking
from examples.audit.models import (
    FileChanges,
    FileList,
    Finding,
    Findings,
    History,
    Inspection,
    LeftOut,
    Metrics,
    Reading,
    ReportRequest,
    Secret,
    Secrets,
    SourceFile,
)
from examples.audit.ranking import rank


def inspection(path: str, complexity: int = 1, **parts) -> Inspection:
    metrics = Metrics(language="python", code_lines=10, complexity=complexity)
    return Inspection(path=path, **{"reading": Reading(digest="d"), "metrics": metrics} | parts)


def changes(path: str, commits: int) -> FileChanges:
    return FileChanges(path=path, commits=commits, authors=1, added=0, deleted=0)


def request(
    inspections: list[Inspection],
    history: History | None = None,
    left_out: list[LeftOut] | None = None,
    paths: list[str] | None = None,
) -> ReportRequest:
    names = paths or sorted(each.path for each in inspections)
    return ReportRequest(
        files=FileList(
            name="project",
            found_by="git",
            note="",
            files=[SourceFile(folder="/f", path=name, size_bytes=1) for name in names],
            left_out=left_out or [],
        ),
        inspections=inspections,
        history=history or History(source="none", note="not a git repository"),
        out="out",
    )


def test_files_rank_by_changes_times_complexity() -> None:
    history = History(
        source="git",
        commits=9,
        changes=[changes("a.py", 9), changes("b.py", 2), changes("c.py", 1)],
    )
    audit = rank(
        request([inspection("a.py", 2), inspection("b.py", 10), inspection("c.py", 18)], history)
    )
    assert [(spot.path, spot.score) for spot in audit.hot_spots] == [
        ("b.py", 20),
        ("c.py", 18),  # as hot as a.py, but more complex
        ("a.py", 18),
    ]
    assert audit.commits == 9
    assert audit.notes == []


def test_a_file_without_commits_is_not_hot() -> None:
    history = History(source="git", commits=1, changes=[changes("a.py", 1)])
    audit = rank(request([inspection("new.py", 50), inspection("a.py", 1)], history))
    assert [(spot.path, spot.score) for spot in audit.hot_spots] == [("a.py", 1), ("new.py", 0)]


def test_without_a_history_complexity_alone_decides_and_that_is_said() -> None:
    audit = rank(request([inspection("a.py", 2), inspection("b.py", 10)]))
    assert [spot.path for spot in audit.hot_spots] == ["b.py", "a.py"]
    assert [spot.commits for spot in audit.hot_spots] == [0, 0]
    assert audit.notes == ["No change history (not a git repository): ranked by complexity alone."]


def test_what_is_no_code_is_counted_and_not_ranked() -> None:
    readme = inspection("README.md", metrics=Metrics(code_lines=40))
    audit = rank(request([readme, inspection("a.py")]))
    assert [spot.path for spot in audit.hot_spots] == ["a.py"]
    assert (audit.files, audit.code_files, audit.code_lines) == (2, 1, 10)


def test_every_reason_for_leaving_out_is_told_once() -> None:
    parts = {"findings": Findings(problem="it changed"), "secrets": Secrets(problem="it changed")}
    audit = rank(
        request(
            [inspection("a.py", **parts), inspection("b.py", reading=Reading(problem="binary"))],
            left_out=[LeftOut(path="z.bin", reason="huge")],
            paths=["a.py", "b.py", "lost.py"],
        )
    )
    assert [(entry.path, entry.reason) for entry in audit.left_out_listed] == [
        ("a.py", "it changed"),
        ("b.py", "binary"),
        ("lost.py", "its inspection failed"),
        ("z.bin", "huge"),
    ]
    assert audit.left_out == 4


def finding(severity, line: int = 1) -> Finding:
    return Finding(rule="B1", severity=severity, line=line, text="x")


def test_grave_weaknesses_come_first_and_low_ones_are_only_counted() -> None:
    many = Findings(high=1, medium=1, low=7, listed=[finding("high", 3), finding("medium")])
    audit = rank(
        request(
            [
                inspection("b.py", findings=many),
                inspection("a.py", findings=Findings(medium=1, low=1, listed=[finding("medium")])),
            ]
        )
    )
    assert (audit.high, audit.medium, audit.low) == (1, 2, 8)
    assert [(each.finding.severity, each.path) for each in audit.findings] == [
        ("high", "b.py"),
        ("medium", "a.py"),
        ("medium", "b.py"),
    ]


def test_long_lists_are_cut_and_counted_in_full(monkeypatch) -> None:
    monkeypatch.setattr(ranking, "MAX_LISTED", 2)
    monkeypatch.setattr(ranking, "MAX_HOT_SPOTS", 3)
    found = Secrets(count=1, listed=[Secret(kind="k", line=1, fingerprint="f")])
    audit = rank(request([inspection(f"{n}.py", secrets=found) for n in range(5)]))
    assert (len(audit.hot_spots), audit.code_files, audit.code_lines) == (3, 5, 50)
    assert (len(audit.secrets_listed), audit.secrets) == (2, 5)


def test_the_order_of_the_inspections_changes_nothing() -> None:
    parts = {
        "findings": Findings(high=1, listed=[finding("high")], problem="cut"),
        "secrets": Secrets(count=1, listed=[Secret(kind="k", line=1, fingerprint="f")]),
    }
    inspections = [inspection(f"{n}.py", complexity=n % 7 + 1, **parts) for n in range(50)]
    expected = rank(request(inspections))
    for seed in range(5):
        shuffled = list(inspections)
        random.Random(seed).shuffle(shuffled)
        assert rank(request(shuffled)) == expected, f"seed {seed}"
