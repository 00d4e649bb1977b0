"""The audit's own agents, killed at every step of auditing a small folder."""

from __future__ import annotations

from pathlib import Path

from examples.audit import agents
from examples.audit.plan import audit_plan
from holdfast.testing import Simulation

AGENTS = (agents.scout, agents.inspector, agents.historian, agents.editor)
REPORTS = ("report.md", "report.html")


def reports(out: Path) -> list[bytes]:
    """Take the reports away."""
    found = [(out / name).read_bytes() for name in REPORTS]
    for name in REPORTS:
        (out / name).unlink()
    return found


def test_the_audit_survives_a_crash_at_every_step(tmp_path: Path) -> None:
    folder, out = tmp_path / "project", tmp_path / "out"
    folder.mkdir()
    (folder / "one.py").write_text("def f(x):\n    return x if x else None\n")
    (folder / "notes.txt").write_text("nothing to see\n")
    given = {"folder": str(folder), "out": str(out)}
    names = [agent.name for agent in AGENTS]
    crashes = list(Simulation.crashes(audit_plan(), given, agents=AGENTS, of=names))
    assert {crash.process for crash in crashes} == set(names)
    assert len(crashes) > 40
    expected = reports(out)
    for crash in crashes:
        run = crash.run()
        assert run.result()["hot_spots"] == ["one.py"], crash
        assert reports(out) == expected, crash
        assert run.effects("write") == 1, crash
        assert run.tasks["inspect"].done == 2, crash
