"""How the four agents work together.

scout.list ──► inspector.inspect (one for each file) ──┐
     └────────────────────────────────────────────────►├──► editor.report
historian.history ─────────────────────────────────────┘
"""

from __future__ import annotations

from holdfast.schemas.plan import Plan

from .agents import history, inspect, list_folder, report

__all__ = ["MAX_PARALLEL", "audit_plan"]

#: Inspections under way at once: enough to keep several inspectors busy.
MAX_PARALLEL = 16


def audit_plan() -> Plan:
    """The plan of an audit. Its inputs: ``folder`` to audit and ``out``, where the report goes."""
    plan = Plan("audit")
    folder, out = plan.input("folder"), plan.input("out")
    files = plan.task("list", list_folder, folder=folder, out=out)
    inspections = plan.map(
        "inspect", inspect, over=files["files"], max_parallel=MAX_PARALLEL, on_failure="collect"
    )
    changes = plan.task("history", history, folder=folder)
    plan.task("report", report, files=files, inspections=inspections, history=changes, out=out)
    return plan
