"""Patterns of names, and rules in their order."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.errors import SettingsError
from asyncworker.sftp.filters import Filters, Rule, read_rules, rule
from asyncworker.sftp.patterns import expression


def met(pattern: str, path: str, folder: bool = False) -> bool:
    text = expression(pattern)[folder]
    return text is not None and re.fullmatch(text, path, re.DOTALL) is not None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.xml", ["a.xml", "b/c/a.xml", ".a.xml", "new\nline.xml", "\udcff.xml"], ["a.txt", "xml", "a.xml/b"]),
        ("/*.xml", ["a.xml"], ["b/a.xml"]),
        ("./a", ["a"], ["b/a"]),
        ("b/*.xml", ["b/a.xml", "c/b/a.xml"], ["a.xml", "b/c/a.xml", "cb/a.xml"]),
        ("b/**", ["b/a", "b/c/d", "x/b/d"], ["b", "cb/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("**/b", ["b", "x/b", "x/y/b"], ["ab"]),
        ("a**b", ["ab", "a/b", "ax/yb"], ["a/bc"]),
        ("a.{xml,txt}", ["a.xml", "d/a.txt"], ["a.md", "a.{xml,txt}"]),
        ("{a,b{c,d/e}}", ["a", "bc", "bd/e"], ["b", "d/e"]),
        ("{8..11}.xml", ["8.xml", "9.xml", "10.xml", "11.xml"], ["7.xml", "12.xml", "1.xml", "08.xml", "111.xml"]),
        ("{08..11}", ["08", "11"], ["8"]),
        ("{c..a}", ["a", "b", "c"], ["d"]),
        ("{1..9..3}", ["1", "4", "7"], ["2", "9"]),
        ("{x}", ["{x}"], ["x"]),
        ("a{b", ["a{b"], ["ab"]),
        ("[x", ["[x"], ["x"]),
        ("[!ab]", ["c"], ["a", "/"]),
        ("[]-]", ["]", "-"], ["a"]),
        ("[[:digit:]_]x", ["1x", "_x"], ["ax"]),
        (r"\*", ["*"], ["a"]),
        (r"[\]]", ["]"], ["\\"]),
        ("a.b", ["a.b"], ["axb"]),
        ("***", ["a", "a/b"], []),
    ],
)
def test_what_meets_a_pattern(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not met(pattern, path)] == []
    assert [path for path in no if met(pattern, path)] == []


def test_a_slash_at_the_end_means_folders_only() -> None:
    assert not met("sub/", "sub")
    assert met("sub/", "sub", folder=True)
    assert met("sub/", "a/sub", folder=True)
    assert not met("/sub/", "a/sub", folder=True)
    assert met("sub/***", "sub", folder=True)
    assert met("sub/***", "sub/a/b")
    assert not met("sub/***", "sub")  # a file of that name


@pytest.mark.parametrize("text", ["{1..3000}.xml", "{1..100000}"])
def test_a_range_of_thousands_is_a_pattern_like_another(text: str) -> None:
    pattern = re.compile(expression(text)[1])
    end = text[text.index("}") + 1 :]
    high = int(text[4 : text.index("}")])
    assert [n for n in (0, 1, 2, 17, high - 1, high, high + 1) if pattern.fullmatch(f"{n}{end}")] == [
        1, 2, 17, high - 1, high,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    ["", "/", "//", "../a", "a/../b", "a//b", "./", "[z-a]", "[[:nothing:]]", "{1..9999999}", "{1..99999999999999}"],
)
def test_a_pattern_that_can_meet_nothing_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(ascii(pattern))):
        Filters([Rule(False, pattern)])


@given(st.text(alphabet="ab*?[]{},.-!^\\/:1", max_size=14))
def test_any_text_is_a_pattern_or_refused(pattern: str) -> None:
    try:
        expressions = expression(pattern)
    except SettingsError:
        return
    for text in expressions:
        if text is not None:
            re.compile(text)


@given(st.text(alphabet="ab*?", min_size=1, max_size=8), st.text(alphabet="ab", min_size=1, max_size=8))
def test_stars_and_question_marks_mean_what_they_always_mean(pattern: str, name: str) -> None:
    if "***" not in pattern:
        assert met(pattern, name) is fnmatchcase(name, pattern)


def filters(*lines: str) -> Filters:
    return Filters(rule(line) for line in lines)


def test_the_first_rule_that_is_met_decides() -> None:
    assert filters("+ a.xml", "- *.xml").wants("a.xml")
    assert not filters("- *.xml", "+ a.xml").wants("a.xml")
    assert filters("- *.xml").wants("a.txt")
    assert not filters("+ *.xml", "- *").wants("a.txt")
    assert not filters("+ *.xml", "- *").enters("sub")  # as rsync: it needs '+ */'
    assert filters("+ *.xml", "+ */", "- *").enters("sub")
    assert not filters("- sub/").enters("a/sub")
    assert filters("- sub/").wants("sub")
    assert not filters("- sub/").reaches("a/sub/b/c")
    assert filters("- sub/").reaches("a/b/sub")


def test_a_rule_keeps_its_place_among_many_kinds() -> None:
    rules = filters("- {1..3}/", "+ 4.xml", "- [4-6].xml", "+ **/5.xml", "- *.xml")
    assert [n for n in range(9) if rules.wants(f"{n}.xml")] == [4]
    assert [n for n in range(9) if rules.enters(str(n))] == [0, 4, 5, 6, 7, 8]


def test_only_these() -> None:
    only = Filters([Rule(True, "*.xml", only=True), Rule(True, "sub/", only=True)])
    assert only.wants("a/b.xml")
    assert not only.wants("a/b.txt")
    assert only.enters("other")
    assert only.wants("sub/deep/b.txt")
    assert only.unmet == []
    assert not only.nothing_met


def test_patterns_that_were_never_met_are_known() -> None:
    only = Filters([Rule(False, "*.tmp"), Rule(True, "*.xml", only=True), Rule(True, "*.xlm", only=True)])
    assert only.nothing_met
    only.wants("a.tmp")
    assert only.nothing_met
    only.wants("a.xml")
    assert not only.nothing_met
    assert only.unmet == ["*.xlm"]


@pytest.mark.parametrize("line", ["*.xml", "+*.xml", "+", "+ ", "! x", ". file", "dir-merge x", ""])
def test_a_rule_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(SettingsError, match="is not '\\+ PATTERN'"):
        rule(line)


def test_rules_of_a_file() -> None:
    text = "# a comment\n; another\n\n*.xml\r\n+ a b.txt\n- *.tmp\n"
    assert read_rules(text, include=True) == [
        Rule(True, "*.xml", only=True),
        Rule(True, "a b.txt"),
        Rule(False, "*.tmp"),
    ]
    assert read_rules("*.bak\n", include=False) == [Rule(False, "*.bak")]
    with pytest.raises(SettingsError):
        read_rules("*.bak\n", include=None)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/*", ["a", "a.b"], [".a", "..."]),
        ("/.*", [".a"], ["a"]),
        ("/?a", ["ba"], [".a"]),
        ("/[.a]b", ["ab"], [".b"]),
        ("/[!a]b", ["bb"], [".b"]),
        ("/a*", ["a", "a.b"], []),
        ("/*/b", ["a/b"], [".a/b"]),
        ("/a/*", ["a/b"], ["a/.b"]),
        ("/**/b", ["b", "a/b", "a/c/b"], [".a/b", "a/.c/b"]),
        ("/a/**", ["a/b", "a/b/c"], ["a/.b", "a/b/.c"]),
        ("/{*,.x}", ["a", ".x"], [".a"]),
        ("/a{?,*}", ["a", "a.", "a.b"], []),
        ("/a/{*,b}", ["a/c"], ["a/.c"]),
        ("/*/***", ["a/.b", "a/b/.c"], [".a/b"]),
    ],
)
def test_wildcards_of_a_shell_leave_the_dot_at_the_beginning_alone(pattern: str, yes: list[str], no: list[str]) -> None:
    met = re.compile(expression(pattern, meets_dots=False)[0] or "", re.DOTALL).fullmatch
    assert [path for path in yes if not met(path)] == []
    assert [path for path in no if met(path)] == []
