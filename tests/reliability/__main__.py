"""Write `docs/reliability.md` and the lines of README.md: `python -m tests.reliability [--check]`.

`--check` writes nothing, and exits 1 if a file is not what the results make of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.reliability.page import lines_of_readme, page, with_lines
from tests.reliability.results import BadResults, load

__all__ = ["PAGE", "README", "RESULTS", "made"]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "reliability" / "results"
PAGE = ROOT / "docs" / "reliability.md"
README = ROOT / "README.md"


def made() -> dict[Path, str]:
    """Return what both files must hold; raises `BadResults`."""
    results = load(RESULTS)
    readme = README.read_text(encoding="utf-8")
    return {PAGE: page(results), README: with_lines(readme, lines_of_readme(results))}


def main() -> int:
    """Write, or check; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    try:
        files = made()
    except BadResults as error:
        print(error, file=sys.stderr)
        return 2
    stale = [
        path
        for path, text in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if options.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the results make: run make reliability")
        return 1 if stale else 0
    for path in stale:
        path.write_text(files[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
