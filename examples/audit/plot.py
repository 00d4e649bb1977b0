"""The plot of the report: every file of code by how often it changed and how complex it is.

Drawn as SVG text by hand: the same figures give the same bytes, it follows the reader's light or
dark theme, and nothing has to be loaded for it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from .models import Audit, HotSpot
from .names import shown

__all__ = ["draw"]

WIDTH, HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 24, 56
NUMBERED = 10
_DECADES = (1, 2, 5)

# Classes are prefixed: inside of the HTML page this style applies to the whole page.
_STYLE = """
.hs-plot{--hs-ink:#1d2433;--hs-soft:#667085;--hs-line:#e4e7ec;--hs-dot:#7c8db5;--hs-hot:#c2410c;
--hs-on-hot:#fff;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
@media (prefers-color-scheme:dark){.hs-plot{--hs-ink:#e6e9f0;--hs-soft:#98a2b3;--hs-line:#2b3242;
--hs-dot:#6f83b6;--hs-hot:#fb923c;--hs-on-hot:#1d1206}}
.hs-grid{stroke:var(--hs-line)}.hs-tick{fill:var(--hs-soft)}.hs-axis{fill:var(--hs-ink)}
.hs-dot{fill:var(--hs-dot);fill-opacity:.55}.hs-hot{fill:var(--hs-hot)}
.hs-number{fill:var(--hs-on-hot);font-weight:700;font-size:11px;text-anchor:middle}
"""


class _Scale:
    """A logarithmic axis from 1 to at least ``top``, drawn from ``start`` to ``end``."""

    def __init__(self, top: int, start: int, end: int) -> None:
        self.top = next(tick for tick in _ticks() if tick >= max(top, 5))
        self._start, self._end = start, end

    def __call__(self, value: int) -> float:
        share = math.log(max(value, 1)) / math.log(self.top)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> list[int]:
        """The marks of the axis, few enough to be read."""
        marks = []
        for tick in _ticks():
            if tick > self.top:
                break
            marks.append(tick)
        if len(marks) <= 8:
            return marks
        return [mark for mark in marks if str(mark)[0] == "1" or mark == self.top]


def _ticks() -> list[int]:
    return [step * 10**power for power in range(13) for step in _DECADES]


def draw(audit: Audit) -> str:
    """The plot as a whole SVG document. Without any code it says so."""
    spots = audit.hot_spots
    unknown = not audit.commits
    x = _Scale(max((spot.commits for spot in spots), default=1), _LEFT, WIDTH - _RIGHT)
    y = _Scale(max((spot.complexity for spot in spots), default=1), HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg class="hs-plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'role="img" aria-labelledby="hs-title">',
        '<title id="hs-title">Files by number of changes and by complexity</title>',
        f"<style>{_STYLE}</style>",
        *_axes(x, y),
        *_dots(spots, x, y),
    ]
    if not spots or unknown:
        text = "no change history: all at the left" if spots else "no code was found"
        parts.append(
            f'<text class="hs-tick" x="{WIDTH // 2}" y="{_TOP + 16}" text-anchor="middle">'
            f"{text}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _axes(x: _Scale, y: _Scale) -> list[str]:
    floor, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in x.ticks():
        at = x(tick)
        parts.append(f'<line class="hs-grid" x1="{at}" y1="{_TOP}" x2="{at}" y2="{floor}"/>')
        parts.append(
            f'<text class="hs-tick" x="{at}" y="{floor + 18}" text-anchor="middle">{tick:,}</text>'
        )
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<line class="hs-grid" x1="{_LEFT}" y1="{at}" x2="{right}" y2="{at}"/>')
        parts.append(
            f'<text class="hs-tick" x="{_LEFT - 10}" y="{at + 4}" text-anchor="end">{tick:,}</text>'
        )
    middle = (_TOP + floor) // 2
    parts.append(
        f'<text class="hs-axis" x="{(_LEFT + right) // 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        "changes (commits) →</text>"
    )
    parts.append(
        f'<text class="hs-axis" x="16" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 16 {middle})">complexity →</text>'
    )
    return parts


def _dots(spots: Sequence[HotSpot], x: _Scale, y: _Scale) -> list[str]:
    """The hottest come last, so that nothing lies on top of them."""
    parts = []
    for place, spot in reversed(list(enumerate(spots, start=1))):
        at_x, at_y = x(spot.commits), y(spot.complexity)
        about = html.escape(
            f"{place}. {shown(spot.path)}: {spot.commits:,} commits, complexity {spot.complexity:,}"
        )
        if place <= NUMBERED and spot.score:
            parts.append(
                f'<g><title>{about}</title><circle class="hs-hot" cx="{at_x}" cy="{at_y}" r="10"/>'
                f'<text class="hs-number" x="{at_x}" y="{round(at_y + 4, 1)}">{place}</text></g>'
            )
        else:
            parts.append(
                f'<circle class="hs-dot" cx="{at_x}" cy="{at_y}" r="5">'
                f"<title>{about}</title></circle>"
            )
    return parts
