"""The written report: whole files, the same bytes each time, and nothing hostile gets out of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from examples.audit import editor
from examples.audit.editor import write_report
from examples.audit.models import (
    Audit,
    Finding,
    HotSpot,
    LeftOut,
    PlacedFinding,
    PlacedSecret,
    Report,
    Secret,
)
from examples.audit.plot import NUMBERED, draw
from examples.audit.report_html import to_html
from examples.audit.report_markdown import TOP_ROWS, to_markdown
from examples.audit.scout import REPORT_NAMES, BadFolder

HOSTILE = "</svg><script>alert(1)</script>|`a`\n\u202e&\"'.py"


def spot(path: str, commits: int = 3, complexity: int = 4) -> HotSpot:
    return HotSpot(
        path=path,
        score=commits * complexity,
        commits=commits,
        authors=1,
        complexity=complexity,
        code_lines=1_234,
        worst=HOSTILE,
        worst_complexity=2,
        weaknesses=1,
        secrets=1,
    )


def audit_of(*spots: HotSpot, name: str = "project", commits: int = 7) -> Audit:
    finding = Finding(rule="B602", severity="high", line=3, text="subprocess call")
    return Audit(
        name=name,
        notes=["History: a shallow clone."],
        files=9,
        code_lines=1_234,
        commits=commits,
        code_files=len(spots),
        hot_spots=list(spots),
        high=1,
        medium=0,
        low=2,
        findings=[PlacedFinding(path="a.py", finding=finding)],
        secrets=1,
        secrets_listed=[
            PlacedSecret(path="a.py", secret=Secret(kind="AWS", line=2, fingerprint="0a1b2c3d"))
        ],
        left_out=1,
        left_out_listed=[LeftOut(path=HOSTILE, reason="binary")],
    )


class Tags(HTMLParser):
    """Which tags a page has, and whether they close in order."""

    VOID = frozenset({"meta", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_two_calls_write_the_same_bytes_and_leave_nothing_else(tmp_path: Path) -> None:
    audit = audit_of(spot("a.py"), spot("b.py", 1, 1))
    first = write_report(audit, str(tmp_path / "x" / "y"), idempotency_key="one")
    written = {path.name: path.read_bytes() for path in (tmp_path / "x" / "y").iterdir()}
    assert sorted(written) == sorted(REPORT_NAMES)
    second = write_report(audit, str(tmp_path / "z"), idempotency_key="two")
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "z").iterdir()}
    assert first == Report(
        markdown=str(tmp_path / "x" / "y" / "report.md"),
        html=str(tmp_path / "x" / "y" / "report.html"),
        plot=str(tmp_path / "x" / "y" / "hotspots.svg"),
        files=9,
        left_out=1,
        hot_spots=["a.py", "b.py"],
        weaknesses=1,
        secrets=1,
    )
    assert second.hot_spots == first.hot_spots


def test_what_a_killed_call_left_is_cleared_and_a_link_not_followed(tmp_path: Path) -> None:
    audit = audit_of(spot("a.py"))
    outside = tmp_path / "outside"
    outside.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    write_report(audit, str(out), idempotency_key="k")
    drafts: list[Path] = []
    original = Path.replace

    def killed(draft: Path, target: Path) -> Path:
        drafts.append(draft)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_report(audit, str(out), idempotency_key="k")
    assert Path.replace is original
    (draft,) = drafts
    draft.unlink()
    draft.symlink_to(outside)
    write_report(audit, str(out), idempotency_key="k")
    assert outside.read_text() == "mine"
    assert sorted(path.name for path in out.iterdir()) == sorted(REPORT_NAMES)


def test_a_reader_never_sees_a_part(tmp_path: Path, monkeypatch) -> None:
    write_report(audit_of(spot("old.py")), str(tmp_path), idempotency_key="k")
    before = (tmp_path / "report.html").read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(editor.os, "fsync", fail)
    with pytest.raises(BadFolder, match="No space left on device"):
        write_report(audit_of(spot("new.py")), str(tmp_path), idempotency_key="k")
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFolder, match="cannot write the report to") as caught:
        write_report(audit_of(), str(tmp_path / "file" / "out"), idempotency_key="k")
    assert str(tmp_path / "file" / "out") in str(caught.value)


def test_the_report_holds_no_time_and_no_machine_path(tmp_path: Path) -> None:
    write_report(audit_of(spot("a.py")), str(tmp_path), idempotency_key="k-id")
    for name in REPORT_NAMES:
        text = (tmp_path / name).read_text()
        assert not re.search(r"\b20\d\d-\d\d|\d\d:\d\d", text)
        assert str(tmp_path) not in text
        assert "k-id" not in text


def test_the_page_is_well_formed_needs_nothing_and_lets_nothing_out() -> None:
    audit = audit_of(spot(HOSTILE), spot("b.py"), name=HOSTILE)
    page = to_html(audit, draw(audit))
    tags = Tags(page)
    assert not tags.open
    names = {tag for tag, _ in tags.seen}
    assert {"script", "link", "img", "iframe"}.isdisjoint(names)
    attributes = [name for _, attrs in tags.seen for name in attrs]
    assert not [name for name in attributes if name.startswith("on") or name in ("src", "href")]
    assert "\u202e" not in page
    assert "prefers-color-scheme: dark" in page
    assert {"caption", "thead", "th"} <= names
    assert ("html", {"lang": "en"}) in tags.seen


def test_the_plot_is_well_formed_and_numbers_the_hottest() -> None:
    spots = [spot(f"{n}.py", commits=40 - n, complexity=400 - n) for n in range(20)]
    root = ElementTree.fromstring(draw(audit_of(spot(HOSTILE), *spots)))
    numbers = [each.text for each in root.iter() if each.get("class") == "hs-number"]
    assert sorted(map(int, filter(None, numbers))) == list(range(1, NUMBERED + 1))
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.get("cx", "")) <= 760
        assert 0 <= float(circle.get("cy", "")) <= 420


@pytest.mark.parametrize(
    ("spots", "commits", "says"),
    [([], 0, "no code was found"), ([spot("a.py", commits=0)], 0, "no change history")],
)
def test_a_plot_of_nothing_says_so(spots, commits, says) -> None:
    drawing = draw(audit_of(*spots, commits=commits))
    ElementTree.fromstring(drawing)
    assert says in drawing


def test_a_plot_of_huge_figures_has_few_ticks() -> None:
    drawing = draw(audit_of(spot("a.py", commits=123_456, complexity=10_000_000)))
    assert drawing.count('class="hs-tick"') < 24


def test_markdown_rows_stay_rows() -> None:
    text = to_markdown(audit_of(spot(HOSTILE), name=HOSTILE), "hotspots.svg")
    (row,) = [line for line in text.splitlines() if line.startswith("| 1 |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 9
    assert "``" in row  # the path holds a backtick, so its fence is longer
    assert "\\u202e" in row
    assert "1,234" in row
    assert "> History: a shallow clone." in text
    assert "| high | `a.py:3` | B602 | subprocess call |" in text
    assert "| `a.py:2` | AWS | `0a1b2c3d` |" in text


def test_a_long_ranking_is_cut_and_says_how_much_is_missing() -> None:
    audit = audit_of(*(spot(f"{n}.py") for n in range(TOP_ROWS + 5)))
    assert "… and 5 more." in to_markdown(audit, "p.svg")
    assert "… and 5 more." in to_html(audit, draw(audit))


def test_an_audit_of_nothing_is_a_report_too() -> None:
    nothing = audit_of().model_copy(
        update={"findings": [], "high": 0, "secrets_listed": [], "secrets": 0, "left_out": 0}
    )
    nothing.left_out_listed.clear()
    for text in (to_markdown(nothing, "p.svg"), to_html(nothing, draw(nothing))):
        for says in ("No code was found.", "None of high or medium severity.", "None found."):
            assert says in text
