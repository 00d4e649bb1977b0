"""lizard, bandit and detect-secrets as plain functions, on good files and on hostile ones."""

from __future__ import annotations

import pytest
from detect_secrets.core import scan as original
from detect_secrets.settings import default_settings

from examples.audit import leaks, weaknesses
from examples.audit.complexity import MAX_LINE_CHARS, measure
from examples.audit.leaks import search
from examples.audit.reading import CHANGED
from examples.audit.weaknesses import scan

BRANCHY = """\
def plain():
    return 1


def branchy(a, b):
    if a and b:
        return 1
    for c in a:
        if c:
            return c
    return 2
"""
# Put together here so that this file holds no secret itself.
KEY = "AKIA" + "IOSFODNN7" + "EXAMPLQ"
PASSWORD = "hunter2" + "-is-no-good"
HEADER = "-----BEGIN RSA " + "PRIVATE KEY-----"


def test_complexity_is_the_sum_over_the_functions(put, digest) -> None:
    source = put("a.py", BRANCHY)
    metrics = measure(source, digest(source))
    assert metrics.language == "python"
    assert metrics.functions == 2
    assert metrics.complexity == 1 + 5
    assert (metrics.worst, metrics.worst_complexity) == ("branchy", 5)
    assert metrics.code_lines == 9
    assert metrics.problem == ""


@pytest.mark.parametrize(
    ("path", "text", "language", "complexity"),
    [
        ("a.go", "package a\nfunc f(x int) int {\n if x > 0 { return 1 }\n return 0\n}\n", "go", 2),
        ("a.js", "function f(x) { return x ? 1 : 0 }\n", "javascript", 2),
        ("constants.py", "A = 1\n", "python", 1),
        ("notes.md", "if this\n\nor that\n", "", 0),
        ("empty.py", "", "python", 1),
        ("no-suffix", "x\n", "", 0),
    ],
)
def test_other_languages_and_no_code(put, digest, path, text, language, complexity) -> None:
    source = put(path, text)
    metrics = measure(source, digest(source))
    assert (metrics.language, metrics.complexity) == (language, complexity)
    assert metrics.problem == ""


def test_generated_code_is_not_measured(put, digest) -> None:
    source = put("min.js", "f();" * MAX_LINE_CHARS)
    assert measure(source, digest(source)).problem == "generated: a line of 20,000 characters"


def test_weaknesses_are_counted_and_the_grave_ones_come_first(put, digest) -> None:
    text = "import subprocess\nassert True\nsubprocess.call('ls ' + x, shell=True)\n"
    source = put("a.py", text + "import hashlib\nhashlib.md5(b'')\n")
    findings = scan(source, digest(source))
    assert (findings.high, findings.medium) == (2, 0)
    assert findings.low >= 2
    assert [each.rule for each in findings.listed[:2]] == ["B602", "B324"]
    assert [each.line for each in findings.listed[:2]] == [3, 5]


def test_nosec_is_honoured_and_other_files_are_not_scanned(put, digest) -> None:
    source = put("a.py", "import hashlib\nhashlib.md5(b'')  # nosec\n")
    assert scan(source, digest(source)).high == 0
    source = put("a.txt", "import hashlib\nhashlib.md5(b'')\n")
    assert scan(source, digest(source)).high == 0


def test_findings_are_listed_up_to_a_bound_and_counted_in_full(put, digest) -> None:
    count = weaknesses.MAX_LISTED + 10
    source = put("a.py", "assert x\n" * count)
    findings = scan(source, digest(source))
    assert findings.low == count
    assert len(findings.listed) == weaknesses.MAX_LISTED


@pytest.mark.parametrize(
    "text",
    [
        f"password = '{PASSWORD}'\n",
        f"def f(password='{PASSWORD}'): pass\n",
        f"connect(password='{PASSWORD}')\n",
        f"import os\nos.system('chown {PASSWORD} *')\n",
    ],
)
def test_no_finding_quotes_the_source(put, digest, text: str) -> None:
    source = put("a.py", text)
    findings = scan(source, digest(source))
    assert findings.listed
    assert PASSWORD not in findings.model_dump_json()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def f(:\n", "bandit: syntax error while parsing AST from file"),
        ("print 'python 2'\n", "bandit: syntax error while parsing AST from file"),
        ("x = '\udcff'\n", "bandit: syntax error while parsing AST from file"),
        ("x = " + "-" * 4_000 + "1\n", "bandit: exception while scanning file"),
        ("x=" + "[\n" * 10_000, "bandit: syntax error while parsing AST from file"),
    ],
)
def test_what_bandit_cannot_read_is_a_problem_in_words(
    put, digest, capfd, text: str, problem: str
) -> None:
    source = put("a.py", text.encode("utf-8", "surrogateescape"))
    assert scan(source, digest(source)).problem == problem
    assert measure(source, digest(source)).problem == ""
    assert search(source, digest(source)).problem == ""
    assert capfd.readouterr() == ("", "")


def test_ten_thousand_nested_brackets_stop_no_tool(put, digest) -> None:
    for path in ("deep.js", "deep.c", "deep.rs"):
        source = put(path, "var x = " + "[{(\n" * 10_000)
        assert measure(source, digest(source)).problem in ("", "lizard: RecursionError")
        assert search(source, digest(source)).problem == ""


def test_a_parser_that_runs_too_deep_gives_no_half_figures(put, digest) -> None:
    source = put("deep.js", "function f(){ x => {\n" * 20_000)
    metrics = measure(source, digest(source))
    assert metrics.problem == "lizard: RecursionError"
    assert metrics.complexity == 0


@pytest.mark.parametrize(
    ("path", "text", "kind", "line"),
    [
        ("a.py", f"\nkey = '{KEY}'\n", "AWS Access Key", 2),
        ("a.py", f"password = '{PASSWORD}'\n", "Secret Keyword", 1),
        ("a.yaml", f"a:\n  password: {PASSWORD}\n", "Secret Keyword", 2),
        ("a.ini", f"[db]\npassword = {PASSWORD}\n", "Secret Keyword", 2),
        ("key.pem", f"{HEADER}\n", "Private Key", 1),
        ("min.js", "f();" * 3_000 + f"k='{KEY}';" + "f();" * 3_000, "AWS Access Key", 1),
        ("latin.txt", f"caf\udce9 {KEY}\n", "AWS Access Key", 1),
    ],
)
def test_secrets_are_found_and_not_told(put, digest, path, text, kind, line) -> None:
    source = put(path, text.encode("utf-8", "surrogateescape"))
    secrets = search(source, digest(source))
    assert (kind, line) in [(each.kind, each.line) for each in secrets.listed]
    told = secrets.model_dump_json()
    assert KEY not in told
    assert PASSWORD not in told


def test_equal_values_have_equal_fingerprints(put, digest) -> None:
    source = put("a.py", f"password = '{PASSWORD}'\n\napi_key = '{PASSWORD}'\nsecret = 'other-1'\n")
    first, second, third = (each.fingerprint for each in search(source, digest(source)).listed)
    assert first == second != third
    assert len(first) == leaks.FINGERPRINT_CHARS


def test_an_allowed_secret_is_passed_over(put, digest) -> None:
    source = put("a.py", f"password = '{PASSWORD}'  # pragma: allowlist secret\n")
    assert search(source, digest(source)).count == 0


def test_an_alias_bomb_is_searched_line_by_line(put, digest) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 25)
    )
    source = put("bomb.yaml", bomb + f"key: {KEY}\n")
    assert [each.kind for each in search(source, digest(source)).listed] == ["AWS Access Key"]


def test_yaml_that_is_too_deep_is_searched_line_by_line(put, digest) -> None:
    source = put("deep.yaml", "[" * 5_000 + f"\nkey: {KEY}\n")
    assert [each.kind for each in search(source, digest(source)).listed] == ["AWS Access Key"]


SAMPLES = {
    "a.py": f"key = '{KEY}'\npassword = '{PASSWORD}'\nx = 'aGVsbG8gd29ybGQgdGhpcyBpcyBsb25nIQ=='\n",
    "b.yaml": f"db:\n  password: {PASSWORD}\n  url: https://me:s3cr3t-word@host/path\n",
    "c.ini": f"[db]\npassword = {PASSWORD}\nhost = 8.8.8.8\n",
    "d.env": f"API_KEY={PASSWORD}\nOTHER=1\n",
    "e.md": f"use https://me:s3cr3t-word@host/path\n\n{HEADER}\n",
    "f.js": f"const secret = \"{PASSWORD}\"; // {KEY}\nlet id = '{'0f3a9b' * 7}';\n",
    "g.go": f'password := "{PASSWORD}"\n',
    "package-lock.json": f'{{"secret": "{PASSWORD}"}}\n',
}


@pytest.mark.parametrize("path", SAMPLES)
def test_it_finds_what_the_scanner_of_detect_secrets_finds(put, digest, folder, path) -> None:
    source = put(path, SAMPLES[path])
    with default_settings():
        expected = {(each.line_number, each.type) for each in original.scan_file(folder / path)}
    found = {(each.line, each.kind) for each in search(source, digest(source)).listed}
    assert found == expected
    assert found or path == "package-lock.json"


@pytest.mark.parametrize("tool", [measure, scan, search])
def test_a_file_that_changed_is_not_mixed_up_with_the_one_that_was_read(put, digest, tool) -> None:
    source = put("a.py", BRANCHY)
    before = digest(source)
    put("a.py", "x = 1\n")
    assert tool(source, before).problem == CHANGED
