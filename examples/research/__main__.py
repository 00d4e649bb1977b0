"""`python -m examples.research "question" FOLDER`: the command line; see `demo`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from examples.processes import EXIT_BAD_INPUT, Refused, answered, bus_url, remove_bus

__all__ = ["EXIT_BAD_INPUT", "VICTIMS", "main", "parser"]

VICTIMS = ("reader", "planner", "writer", "critic", "coordinator")
QUESTION_CHARS_MAX = 2_000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m examples.research", description="Answer a question from a folder"
    )
    made.add_argument("question", help="in words that the documents may use")
    made.add_argument("folder", nargs="?", default=".", help="a folder of documents")
    made.add_argument("--out", default="build/research", help="where the answer goes")
    made.add_argument("--bus", default="sqlite", help="sqlite, kafka, or a bus URL")
    made.add_argument("--kill", action="store_true", help="kill a process in the middle")
    made.add_argument("--victim", choices=VICTIMS, default="reader", help="which one")
    made.add_argument("--fresh", action="store_true", help="remove the bus file first")
    return made


def main() -> int:
    """Parse, run, and answer with an exit code: 0 done, 1 the run failed, 2 bad input."""
    options = parser().parse_args()
    began = time.monotonic()
    code = answered("research", "make research", lambda: run(options))
    if code == 0:
        print(f"\nDone in {time.monotonic() - began:.1f} s.")
    return code


def run(options: argparse.Namespace) -> int:
    """Check what was asked, then answer it."""
    # Imported late: `--help` is answered at once.
    from .demo import Choices, research
    from .library import BadFolder, check_folder
    from .words import FILE_NAME, content_words

    question = options.question.strip()
    if not question or len(question) > QUESTION_CHARS_MAX:
        raise Refused(f"QUESTION has {len(question)} characters; ask in 1 to {QUESTION_CHARS_MAX}")
    if next(content_words(FILE_NAME.sub(" ", question)), None) is None:
        raise Refused(f"QUESTION={question!r} has no word to look for: ask for something")
    try:
        folder = check_folder(options.folder)
    except BadFolder as error:
        raise Refused(f"FOLDER: {error}") from None
    if options.fresh:
        remove_bus()
    with bus_url(options.bus) as url:
        print(f"Asking {options.folder} over {url}", flush=True)
        victim = options.victim if options.kill else None
        asyncio.run(research(Choices(question, folder, Path(options.out), url, victim)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
