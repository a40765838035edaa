import pytest

from persona_jobs.evaluation.answer_segments import counted_tokens, segment_sums, segments

PERSONA = [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        # Three tokens of the persona's text in a row are no copy, four are.
        ([1, 2, 3, 9, 4, 5, 6], "1111111"),
        ([9, 2, 3, 4, 5, 9], "100001"),
        ([9, 3, 4, 5, 6, 7, 8, 9], "10000001"),
        # The first occurrence counts, the repetition does not.
        ([20, 21, 22, 23, 24, 20, 21, 22, 23, 25], "1111100001"),
        ([30, 30, 30, 30, 30, 30], "100000"),
        ([20, 21, 22, 24, 20, 21, 22, 25], "11111111"),
        ([1, 2], "11"),
        ([], ""),
    ],
)
def test_copied_and_repeated_ngrams_do_not_count(answer: list[int], counts: str):
    assert "".join(str(int(c)) for c in counted_tokens(answer, [PERSONA])) == counts


def test_every_source_is_looked_at():
    assert counted_tokens([5, 6, 7, 8], [[9], [4, 5, 6, 7, 8]]) == [False] * 4
    assert counted_tokens([5, 6, 7, 8], []) == [True] * 4


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [(1, [1]), (16, [16]), (23, [23]), (25, [13, 12]), (40, [20, 20]), (48, [16, 16, 16])],
)
def test_segments_have_nearly_equal_lengths(tokens: int, lengths: list[int]):
    numbers = segments([True] * tokens)
    assert [numbers.count(n + 1) for n in range(len(lengths))] == lengths
    assert numbers == sorted(numbers)


def test_tokens_that_do_not_count_are_in_no_segment():
    counted = [True] * 20 + [False] * 5 + [True] * 12
    numbers = segments(counted)
    assert [number == 0 for number in numbers] == [not c for c in counted]
    assert max(numbers) == 2
    assert numbers.count(1) == numbers.count(2) == 16
    assert segments([False, False]) == [0, 0]


def test_sums_of_segments_add_up():
    assert segment_sums([1.0, 2.0, 4.0, 8.0], [1, 0, 1, 2]) == [2.0, 5.0, 8.0]
    assert segment_sums([], []) == [0.0]
