from pathlib import Path

from persona_jobs.endpoints import ChatAnswer
from persona_jobs.rewriting import answer_log


def test_saves_and_loads_all_but_failures(tmp_path: Path) -> None:
    answers = {
        "d": ChatAnswer("Arr ☠\n\u2028 x", "complete"),
        "a": ChatAnswer("Once", "truncated"),
        "b": ChatAnswer("", "failed", "HTTP 500"),
        "c": ChatAnswer("", "refused"),
        "e": ChatAnswer("Aye", "complete", sent_without=("temperature",)),
    }
    answer_log.save(tmp_path / "answers", answers)
    expected = {digest: answer for digest, answer in answers.items() if digest != "b"}
    assert answer_log.load(tmp_path / "answers") == (expected, 0)


def test_broken_unicode_stays_recognizable(tmp_path: Path) -> None:
    answer_log.save(tmp_path, {"a": ChatAnswer("a\ud800b", "complete")})
    assert answer_log.load(tmp_path)[0]["a"].text == "a\ufffdb"


def test_malformed_lines_are_ignored_and_counted(tmp_path: Path) -> None:
    answers = {name: ChatAnswer(f"Arr {name}", "complete") for name in "ab"}
    answer_log.save(tmp_path, answers)
    path = tmp_path / answer_log.FILE_NAME
    path.write_bytes(b'\xff{"request": 1}\n' + path.read_bytes()[:-9])
    assert answer_log.load(tmp_path) == ({"a": answers["a"]}, 2)
