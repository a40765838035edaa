import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_jobs.serve.text_stream import StopText, TokenText
from support.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def decode(ids):
    return TOKENIZER.decode(list(ids), skip_special_tokens=True)


def pieces_of(ids):
    stream = TokenText(decode)
    return [*(stream.push(token) for token in ids), stream.finish()]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_pieces_join_to_the_text_and_never_show_half_a_character(text):
    pieces = pieces_of(TOKENIZER.encode(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_all_bytes_are_returned_exactly_once(ids):
    # Bytes that are no characters become replacement signs, of which there may be more or fewer.
    assert "".join(pieces_of(ids)).replace("\ufffd", "") == decode(ids).replace("\ufffd", "")


def test_text_is_returned_with_the_token_that_completes_it():
    assert pieces_of(TOKENIZER.encode("aé")) == ["a", "", "é", ""]


def test_an_incomplete_character_is_returned_at_the_end():
    assert pieces_of(TOKENIZER.encode("é")[:1]) == ["", "\ufffd"]


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
)
def test_text_ends_before_the_first_stop_string(pieces, stops):
    text = "".join(pieces)
    stream = StopText(stops)
    passed = [stream.push(piece) for piece in pieces]
    found = any(stop in text for stop in stops)
    assert stream.stopped == found
    joined = "".join(passed) + stream.finish()
    if not found:
        assert joined == text
    else:
        # Pieces are looked at in turn: a stop string that is complete earlier wins.
        assert text.startswith(joined)
        assert not any(stop in joined for stop in stops)
        assert any(text[len(joined) :].startswith(stop) for stop in stops)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_stop_string_is_found_across_pieces(size):
    text = "one two END three"
    stream = StopText(["END"])
    passed = "".join(stream.push(text[at : at + size]) for at in range(0, len(text), size))
    assert passed + stream.finish() == "one two "
    assert stream.stopped


def test_text_that_may_become_a_stop_string_is_held_back():
    stream = StopText(["\n\n"])
    assert stream.push("line\n") == "line"
    assert stream.push("next") == "\nnext"
