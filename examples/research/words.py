"""Words as they are compared: folded, without their endings, without those that say nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["FILE_NAME", "content_words", "stem", "words"]

FILE_NAME = re.compile(r"[\w./-]*\w\.(?:adoc|markdown|md|org|rst|text|txt)\b")
"""A document, as a question may name it."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_STOP_WORDS = """
    a about above according after all also although an and another any are as at be because been
    before being between both but by can could did do does doing down during each either else
    ever every few for from get gets give given gives had has have having he her here his how
    however i if in into is it its itself just know known let like made make makes many may me
    might more most much must my need needs neither no nor not of off on once one only or other
    our out over own per quite rather really same say says see she should since so some still
    such take takes tell tells than that the their them then there these they thing things this
    those though through to too under until up upon us use used uses using very was way we well
    were what when where whether which while who whom whose why will with within without would
    yet you your
"""
_STOP = frozenset(_STOP_WORDS.split())
"""Of the language of most documents; in others every word counts, the rare ones more."""

_ENDINGS = (
    ("sses", "ss"), ("ies", "y"), ("ied", "y"), ("ations", "at"), ("ation", "at"),
    ("ings", ""), ("ing", ""), ("edly", ""), ("ed", ""), ("ly", ""), ("es", "e"), ("s", ""),
)  # fmt: skip
_STEM_MIN = 3
_KEPT = ("ss", "us", "is")


def words(text: str) -> Iterator[str]:
    """Yield the words of a text in order, as they stand."""
    for found in _WORD.finditer(text):
        yield found[0]


def content_words(text: str) -> Iterator[tuple[str, str]]:
    """Yield (stem, word) of the words that say something; single letters do not."""
    for word in words(text):
        folded = word.casefold()
        if folded not in _STOP and (len(folded) > 1 or folded.isdigit()):
            yield stem(folded), word


def stem(word: str) -> str:
    """Return what a word is compared by: "killed", "kills", "killing" and "kill" are one."""
    word = word.casefold().replace("’", "'").removesuffix("'s")
    for ending, put in _ENDINGS:
        if word.endswith(_KEPT) and ending == "s":
            continue
        if word.endswith(ending) and len(word) - len(ending) >= _STEM_MIN:
            return _trimmed(word[: len(word) - len(ending)] + put)
    return _trimmed(word)


def _trimmed(word: str) -> str:
    """Without a last e ("journale", "journal") or a doubled consonant ("cancell", "cancel")."""
    if len(word) > _STEM_MIN and word.endswith("e"):
        word = word[:-1]
    if len(word) > _STEM_MIN and word[-1] == word[-2] and word[-1] not in "aeiou":
        word = word[:-1]
    return word
