"""The report as one HTML page: nothing to load beside it, no script, light and dark."""

from __future__ import annotations

from html import escape
from pathlib import Path

from .models import Audit, HotSpot
from .names import shown
from .report_markdown import TOP_ROWS

__all__ = ["to_html"]


def to_html(audit: Audit, plot: str) -> str:
    """The whole page; ``plot`` is the SVG document that goes into it."""
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    name = escape(shown(audit.name))
    notes = "".join(f'<p class="note">{escape(shown(note))}</p>\n' for note in audit.notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Audit of {name}</title>
<style>
{css}</style>
</head>
<body>
<main>
<h1>Audit of {name}</h1>
<p>Where change meets complexity, and what the scanners see.</p>
{notes}{_tiles(audit)}
{_hot_spots(audit)}
<section aria-label="Plot">
<h2>Changes against complexity</h2>
<p>Every dot is a file; the numbers are ranks. Upper right is hot. Both axes are logarithmic.</p>
{plot}</section>
{_weaknesses(audit)}
{_secrets(audit)}
{_left_out(audit)}
<footer>Complexity by lizard, weaknesses by bandit, secrets by detect-secrets, changes by git.
The values of secrets are not in this report.</footer>
</main>
</body>
</html>
"""


def _tiles(audit: Audit) -> str:
    figures = [
        ("Files inspected", audit.files),
        ("Lines of code", audit.code_lines),
        ("Commits", audit.commits),
        ("Weaknesses", audit.high + audit.medium),
        ("Possible secrets", audit.secrets),
        ("Left out", audit.left_out),
    ]
    cells = "\n".join(f"<div><dt>{name}</dt><dd>{value:,}</dd></div>" for name, value in figures)
    return f'<dl class="tiles">\n{cells}\n</dl>'


def _hot_spots(audit: Audit) -> str:
    top = max((spot.score for spot in audit.hot_spots), default=0)
    rows = [
        _hot_spot(place, spot, 100 * spot.score // max(top, 1))
        for place, spot in enumerate(audit.hot_spots[:TOP_ROWS], start=1)
    ]
    head = [
        ("#", "number"),
        ("File", "path"),
        ("Score", "number"),
        ("Commits", "number"),
        ("Authors", "number wide"),
        ("Complexity", "number"),
        ("Lines", "number wide"),
        ("Weak", "number"),
        ("Secrets", "number wide"),
        ("Worst function", "wide"),
    ]
    about = "Score = commits × cyclomatic complexity: complex code that changes often."
    return _section("Hot spots", about, head, rows, audit.code_files, "No code was found.")


def _hot_spot(place: int, spot: HotSpot, share: int) -> str:
    worst = f"{spot.worst_complexity:,} · {_code(spot.worst)}" if spot.worst else ""
    return (
        f'<td class="number">{place}</td>'
        f'<th scope="row" class="path">{_path(spot.path)}</th>'
        f'<td class="number score" style="--share:{share}%">{spot.score:,}</td>'
        f'<td class="number">{spot.commits:,}</td>'
        f'<td class="number wide">{spot.authors:,}</td>'
        f'<td class="number">{spot.complexity:,}</td>'
        f'<td class="number wide">{spot.code_lines:,}</td>'
        f'<td class="number">{spot.weaknesses:,}</td>'
        f'<td class="number wide">{spot.secrets:,}</td>'
        f'<td class="function wide" title="{escape(shown(spot.worst))}">{worst}</td>'
    )


def _weaknesses(audit: Audit) -> str:
    rows = [
        f'<td class="{placed.finding.severity}">{placed.finding.severity}</td>'
        f'<th scope="row" class="path">{_path(f"{placed.path}:{placed.finding.line}")}</th>'
        f"<td>{_code(placed.finding.rule)}</td><td>{escape(shown(placed.finding.text))}</td>"
        for placed in audit.findings
    ]
    about = f"{audit.high:,} high, {audit.medium:,} medium; {audit.low:,} low ones are not listed."
    head = [("Severity", ""), ("Place", "path"), ("Rule", ""), ("What", "")]
    total = audit.high + audit.medium
    return _section("Weaknesses", about, head, rows, total, "None of high or medium severity.")


def _secrets(audit: Audit) -> str:
    rows = [
        f'<th scope="row" class="path">{_path(f"{placed.path}:{placed.secret.line}")}</th>'
        f"<td>{escape(shown(placed.secret.kind))}</td>"
        f"<td>{_code(placed.secret.fingerprint)}</td>"
        for placed in audit.secrets_listed
    ]
    about = "Equal fingerprints are equal values."
    head = [("Place", "path"), ("Kind", ""), ("Fingerprint", "")]
    return _section("Secrets", about, head, rows, audit.secrets, "None found.")


def _left_out(audit: Audit) -> str:
    rows = [
        f'<th scope="row" class="path">{_path(entry.path)}</th>'
        f"<td>{escape(shown(entry.reason))}</td>"
        for entry in audit.left_out_listed
    ]
    about = "Not inspected, wholly or by one of the tools."
    head = [("File", "path"), ("Why", "")]
    return _section("Left out", about, head, rows, audit.left_out, "Nothing.")


def _section(
    title: str, about: str, head: list[tuple[str, str]], rows: list[str], total: int, none: str
) -> str:
    if not rows:
        return f"<section>\n<h2>{title}</h2>\n<p>{none}</p>\n</section>"
    cells = "".join(f'<th scope="col" class="{style}">{name}</th>' for name, style in head)
    lines = "\n".join(f"<tr>{row}</tr>" for row in rows)
    more = f"<p>… and {total - len(rows):,} more.</p>\n" if total > len(rows) else ""
    return f"""<section>
<h2>{title}</h2>
<div class="scroll" role="region" aria-label="{title}" tabindex="0">
<table>
<caption>{about}</caption>
<thead><tr>{cells}</tr></thead>
<tbody>
{lines}
</tbody>
</table>
</div>
{more}</section>"""


def _path(text: str) -> str:
    """A path that breaks after its slashes first where it has to break."""
    return _code(text).replace("/", "/<wbr>").replace("</<wbr>code>", "</code>")


def _code(text: str) -> str:
    return f"<code>{escape(shown(text))}</code>"
