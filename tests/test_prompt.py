"""The grammar of prompts: A1111's examples, and that any text at all is read, quickly."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webui.imaging.prompt import Network, Part, Prompt, attention, parse, schedule, split_and, strip_networks

SIGNS = [
    "(", ")", "[", "]", ":", "|", "\\", "\\(", "0.5", ":0.25]", ":3]", ":1.2)", "a", "red fox", " ", "\n", "AND", " BREAK ",
    "<", ">", "<lora:x:1>", "猫", ",", "1e999",
]  # fmt: skip
GRAMMAR = st.lists(st.sampled_from(SIGNS), max_size=40).map("".join)
ANY_TEXT = GRAMMAR | st.text(max_size=60)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="()[]\\:|<>"), max_size=40).filter(
    lambda text: not re.search(r"\b(AND|BREAK)\b", text)
)
examples = settings(max_examples=150, deadline=None)


@pytest.mark.parametrize(
    ("text", "steps", "expected"),
    [
        ("test", 10, [(10, "test")]),
        ("", 10, [(10, "")]),
        ("a [b:3]", 10, [(3, "a "), (10, "a b")]),
        ("a [b: 3 ]", 10, [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", 10, [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", 10, [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", 10, [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", 10, [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [b::4] c", 10, [(4, "a b c"), (10, "a  c")]),
        ("a [b:.5] c", 10, [(5, "a  c"), (10, "a b c")]),
        ("a [b:c:0.25] d", 20, [(5, "a b d"), (20, "a c d")]),
        ("a [b:c:1.0] d", 20, [(20, "a b d")]),
        ("a [b:c:0] d", 20, [(20, "a c d")]),
        ("a [b:c:-3] d", 20, [(20, "a c d")]),
        ("a [b:c:99] d", 20, [(20, "a b d")]),
        ("a [b:c:1e999] d", 20, [(20, "a b d")]),
        ("[a:b:2][c:d:2]", 4, [(2, "ac"), (4, "bd")]),
        # What is none: kept as it stands.
        ("a [unbalanced", 10, [(10, "a [unbalanced")]),
        ("a [b] (c:1.3)", 10, [(10, "a [b] (c:1.3)")]),
        ("[a:b]", 10, [(10, "[a:b]")]),
        ("[a:b:c:3]", 10, [(10, "[a:b:c:3]")]),
        ("[a:b:0.5.1]", 10, [(10, "[a:b:0.5.1]")]),
        ("a | b : c 16:9", 10, [(10, "a | b : c 16:9")]),
        (r"\[a:b:3\]", 10, [(10, r"\[a:b:3\]")]),
        (r"[a\:b:3]", 10, [(3, ""), (10, r"a\:b")]),
        ("trailing \\", 10, [(10, "trailing \\")]),
        # Strange brackets make those around them literal, those behind them count.
        ("a [{b|d{:.5] c", 10, [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", 10, [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a :( b:3]", 10, [(10, "[a :( b:3]")]),
        ("[x (a:b:c) y:3] [z:3]", 10, [(3, "[x (a:b:c) y:3] "), (10, "[x (a:b:c) y:3] z")]),
        ("[from:to:when]", 10, [(10, "[from:to:when]")]),
    ],
)
def test_words_change_at_a_step(text: str, steps: int, expected: list[tuple[int, str]]):
    assert schedule(text, steps) == expected


@pytest.mark.parametrize(
    ("text", "steps", "expected"),
    [
        ("[a|b]", 4, "abab"),
        ("[a|b|c]", 5, "abcab"),
        ("[a|b][c:d:2]", 4, ["ac", "bc", "ad", "bd"]),
        ("[fe|]male", 3, ["female", "male", "female"]),
        ("[fe|||]male", 6, ["female", "male", "male", "male", "female", "male"]),
        ("[a|(b:1.1)]", 2, ["a", "(b:1.1)"]),
        ("[a|[b|c]]", 4, ["a", "c", "a", "c"]),
        ("[a|[b:c:2]]", 4, ["a", "b", "a", "c"]),
        ("[[a|b]:x:2]", 4, "abxx"),
    ],
)
def test_words_take_turns(text: str, steps: int, expected: list[str]):
    assert [said_at(schedule(text, steps), step) for step in range(1, steps + 1)] == list(expected)


def said_at(said: list[tuple[int, str]], step: int) -> str:
    return next(text for until, text in said if step <= until)


def test_turns_that_say_the_same_are_one_text():
    assert schedule("[fe|||]male", 8) == [(1, "female"), (4, "male"), (5, "female"), (8, "male")]


@pytest.mark.parametrize(
    ("text", "first_pass", "second_pass"),
    [
        ("[b:.5]", [(10, ""), (20, "b")], [(10, "b")]),
        ("[b:1.5]", [(20, "")], [(5, ""), (10, "b")]),
        ("[b:24]", [(20, "")], [(4, ""), (10, "b")]),
        ("[b:8]", [(8, ""), (20, "b")], [(10, "b")]),
    ],
)
def test_in_the_second_pass_of_hires_fix_the_count_goes_on(text: str, first_pass: list, second_pass: list):
    assert schedule(text, 20) == first_pass
    assert schedule(text, 10, base_steps=20) == second_pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("((x)) [y] [[z]]", [("x", 1.21), (" ", 1), ("y", 1 / 1.1), (" ", 1), ("z", 1 / 1.21)]),
        ("(x:1.3) (y:.5) (z: 2 ) (w:-1)", [("x", 1.3), (" ", 1), ("y", 0.5), (" ", 1), ("z", 2), (" ", 1), ("w", -1)]),
        ("(a (b:1.5))", [("a ", 1.1), ("b", 1.65)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("a [b (c", [("a ", 1), ("b ", 1 / 1.1), ("c", 1)]),
        ("un) balanced]", [("un) balanced]", 1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        (r"a\\b (c\)d)", [(r"a\b ", 1), ("c)d", 1.1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("a:1.2) b", [("a:1.2) b", 1)]),
        ("[x:1.3]", [("x:1.3", 1 / 1.1)]),
        ("12:30", [("12:30", 1)]),
        ("", []),
        ("()", []),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1)]
            + [("sky", 1.4641), (".", 1.1)],
        ),
    ],
)
def test_brackets_are_weights(text: str, expected: list[tuple[str, float]]):
    (section,) = attention(text)
    assert [words for words, _ in section] == [words for words, _ in expected]
    assert [weight for _, weight in section] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK b", [["a "], [" b"]]),
        ("BREAK a BREAK BREAK b BREAK", [[], [" a "], [" "], [" b "], []]),
        ("BREAKFAST break", [["BREAKFAST break"]]),
        ("a (b BREAK c:1.5) d", [["a ", "b "], [" c", " d"]]),
    ],
)
def test_break_begins_a_section(text: str, expected: list[list[str]]):
    assert [[words for words, _ in section] for section in attention(text)] == expected


def test_a_break_in_brackets_leaves_the_weight_on_both_sides():
    assert attention("(b BREAK c:1.5)") == [[("b ", 1.5)], [(" c", 1.5)]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("a screen, 16:9", [("a screen, 16:9", 1)]),
        ("a cat AND a dog", [("a cat", 1), ("a dog", 1)]),
        ("a cat :1.2 AND a dog: -0.5 AND (c:2)", [("a cat", 1.2), ("a dog", -0.5), ("(c:2)", 1)]),
        ("HAND AND BRAND", [("HAND", 1), ("BRAND", 1)]),
        ("a AND ", [("a", 1), ("", 1)]),
        ("a and b", [("a and b", 1)]),
    ],
)
def test_and_splits_a_prompt(text: str, expected: list[tuple[str, float]]):
    assert [(part.text, part.weight) for part in split_and(text)] == expected


def test_networks_are_taken_out_and_told():
    text, networks = strip_networks("a <lora:ink:0.7> fox <lyco:b:te=1:unet=0.5><hypernet:c>, 1 < 2 > 1 <notype>")
    assert text == "a  fox , 1 < 2 > 1 <notype>"
    assert networks == [Network("lora", "ink", ("0.7",)), Network("lyco", "b", ("te=1", "unet=0.5")), Network("hypernet", "c")]
    assert str(networks[1]) == "<lyco:b:te=1:unet=0.5>"


def test_a_prompt_is_its_parts_without_networks():
    expected = Prompt((Part("a [b:c:0.5]"), Part("d", 0.5)), (Network("lora", "x", ("1",)),))
    assert parse("a [b:c:0.5] AND <lora:x:1> d :0.5") == expected


@examples
@given(PLAIN, st.integers(1, 30))
def test_plain_text_goes_through_unchanged(text: str, steps: int):
    assert parse(text) == Prompt((Part(text),))
    assert schedule(text, steps) == [(steps, text)]
    assert attention(text) == [[(text, 1.0)] if text else []]


@examples
@given(st.text(max_size=40))
def test_escaped_text_is_plain(text: str):
    text = text.replace("BREAK", "")
    escaped = re.sub(r"([()\[\]\\])", r"\\\1", text)
    assert attention(escaped) == [[(text, 1.0)] if text else []]


@examples
@given(ANY_TEXT, st.integers(1, 12), st.none() | st.integers(1, 12))
def test_any_text_has_a_schedule_that_covers_all_steps(text: str, steps: int, base_steps: int | None):
    said = schedule(text, steps, base_steps)
    ends = [until for until, _ in said]
    assert ends == sorted(set(ends)) and ends[-1] == steps and ends[0] >= 1
    assert all(one[1] != next_[1] for one, next_ in pairwise(said))
    assert all(len(now) <= len(text) for _, now in said)


@examples
@given(GRAMMAR, GRAMMAR, st.integers(2, 12), st.data())
def test_a_switch_shows_each_side_at_its_steps(before: str, after: str, steps: int, data: st.DataObject):
    before, after = (re.sub(r"[()\[\]:|\\]", "", text) for text in (before, after))
    switch = data.draw(st.integers(1, steps - 1))
    said = schedule(f"<[{before}:{after}:{switch}]>", steps)
    assert [said_at(said, step) for step in range(1, steps + 1)] == [f"<{before}>"] * switch + [f"<{after}>"] * (steps - switch)


@examples
@given(ANY_TEXT)
def test_any_text_has_words_with_weights(text: str):
    sections = attention(text)
    assert len(sections) == 1 + len(re.findall(r"\bBREAK\b", re.sub(r"[()\[\]\\:]", " ", text)))
    for section in sections:
        assert all(words and not math.isnan(weight) for words, weight in section)
        assert all(a[1] != b[1] for a, b in pairwise(section))


@examples
@given(PLAIN.filter(str.strip), st.lists(st.sampled_from("(["), max_size=6))
def test_nesting_multiplies(text: str, brackets: list[str]):
    closing = "".join({"(": ")", "[": "]"}[bracket] for bracket in reversed(brackets))
    ((_, weight),) = attention("".join(brackets) + text + closing)[0]
    assert weight == pytest.approx(1.1 ** brackets.count("(") / 1.1 ** brackets.count("["))


READERS: dict[str, Callable[[str], object]] = {
    "networks": strip_networks,
    "AND": split_and,
    "schedule": lambda text: schedule(text, 150),
    "attention": attention,
}
HOSTILE = ["(", "[", ")", "]", "[[(", ":", "[:", "[a:1", "[|", "a|", "\\", "<a:", "<", "(a:", ": ", " ", "1", "BREAK ", " AND"]
NESTED = ["[" * 3333 + ":1]" * 2222, "[|" * 3333 + "]" * 3333, "(" * 5000 + ")" * 5000, "(" * 2500 + ":9)" * 2500]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("hostile", [*(part * (10_000 // len(part)) for part in HOSTILE), *NESTED], ids=lambda text: text[:5])
def test_ten_thousand_hostile_characters_are_quick(reader: str, hostile: str):
    start = time.process_time()
    READERS[reader](hostile)
    assert time.process_time() - start < 1.0
