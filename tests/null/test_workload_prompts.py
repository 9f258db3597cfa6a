"""Token ids made from lengths: who shares which, and that they repeat."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ellm.sim.workload.item import BLOCK_TOKENS, Item
from ellm.sim.workload.prompts import FIRST_ID, LAST_ID, token_ids

lengths = st.integers(1, 3000)


@given(length=lengths, number=st.integers(0, 1 << 20), seed=st.integers(0, 99))
def test_a_prompt_has_its_length_and_ids_that_every_vocabulary_has(
    length: int, number: int, seed: int
) -> None:
    ids = token_ids(Item(length, 1), number, seed)
    assert len(ids) == length
    assert FIRST_ID <= min(ids) <= max(ids) <= LAST_ID
    assert ids == token_ids(Item(length, 1, arrival=9.0, model=3), number, seed)


def test_all_ids_come_about_as_often() -> None:
    ids = token_ids(Item(253_000, 1), 0, 0)
    counts = [ids.count(token) for token in range(FIRST_ID, LAST_ID + 1)]
    assert 800 < min(counts) <= max(counts) < 2400  # three of them twice as often as the others


def test_requests_without_blocks_share_no_beginning() -> None:
    beginnings = {token_ids(Item(8, 1), number, seed) for number in range(999) for seed in (0, 1)}
    assert len(beginnings) == 2 * 999


def test_a_request_may_be_made_at_any_time() -> None:
    """What was made before makes no difference, and a longer prompt begins as a shorter one."""
    assert token_ids(Item(900, 1), 7, 0)[:100] == token_ids(Item(100, 1), 7, 0)


def test_prompts_share_what_their_blocks_share() -> None:
    items = (
        Item(700, 1, blocks=(0, 1)),
        Item(700, 1, blocks=(0, 2)),
        Item(1100, 1, blocks=(0, 1, 3)),
    )
    a, b, c = (token_ids(item, number, 0) for number, item in enumerate(items))
    assert a[:BLOCK_TOKENS] == b[:BLOCK_TOKENS] == c[:BLOCK_TOKENS]
    assert a[BLOCK_TOKENS:] != b[BLOCK_TOKENS:]
    assert c[:700] == a


@given(
    scale=st.floats(0.001, 3.0),
    common=st.integers(0, 4),
    lengths=st.tuples(lengths, lengths),
    own=st.booleans(),
)
def test_prompts_share_to_the_token(
    scale: float, common: int, lengths: tuple[int, int], own: bool
) -> None:
    """Equal blocks are equal tokens and nothing after them is, also where lengths are scaled."""
    covered = BLOCK_TOKENS * scale
    common = min(common, *(int(length // covered) for length in lengths))
    blocks = [(*range(common), *((100 + number,) if own else ())) for number in (0, 1)]
    a, b = (
        token_ids(Item(length, 1, blocks=ids, block_tokens=covered), number, 0)
        for number, (length, ids) in enumerate(zip(lengths, blocks, strict=True))
    )
    shared = min(round(common * covered), *lengths)
    assert a[:shared] == b[:shared]
    # by chance, one token in 253 is the same
    rest = min(len(a), len(b)) - shared
    assert rest < 8 or a[shared : shared + rest] != b[shared : shared + rest]
