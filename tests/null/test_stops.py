"""Stop strings: the same cut however the text is split, and nothing shown too early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ellm.llm.stops import StopStrings

SMALL = st.text(alphabet="ab", max_size=30)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=4)


def naive(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Character by character, longest first."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return (text[:end] if include else text[: end - len(stop)]), stop
    return text, None


@given(
    pieces=st.lists(st.text(alphabet="ab", max_size=6), max_size=10),
    stops=STOPS,
    include=st.booleans(),
)
def test_the_split_does_not_matter(pieces: list[str], stops: list[str], include: bool) -> None:
    matcher, shown, text = StopStrings(stops, include), "", "".join(pieces)
    for piece in pieces:
        shown += matcher.push(piece)
        assert naive(text, stops, include)[0].startswith(shown)
        if matcher.found is not None:
            break
    else:
        shown += matcher.finish()
    assert (shown, matcher.found) == naive(text, stops, include)


@given(text=SMALL, stops=STOPS)
def test_no_more_is_held_back_than_could_be_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(char, armed=False) for char in text)
    held = matcher.finish()
    assert shown + held == text
    assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_string_must_end_in_armed_text() -> None:
    matcher = StopStrings(["ab"])
    assert matcher.push("xab", armed=False) == "xab"
    assert matcher.push("a", armed=False) == ""
    assert matcher.push("bcd") == ""
    assert matcher.found == "ab"


def test_of_overlapping_matches_the_first_complete_one_counts() -> None:
    matcher = StopStrings(["abcde", "cd"])
    assert matcher.push("xabcde") == "xab"
    assert matcher.found == "cd"


def test_included_stop_strings_end_the_text() -> None:
    matcher = StopStrings(["\n\n"], include=True)
    assert matcher.push("a\n") == "a"
    assert matcher.push("\nb") == "\n\n"
