from pathlib import Path

import pytest

from persona_jobs.dataset import Message
from persona_jobs.errors import CorruptArtifactError
from persona_jobs.rewriting import answer_log
from persona_jobs.rewriting.teacher import TeacherAnswer, TeacherRequest


def requests(count: int) -> list[TeacherRequest]:
    return [TeacherRequest((Message(role="user", content=f"Q{i}"),), seed=i) for i in range(count)]


def test_saves_and_loads_all_but_failures(tmp_path: Path) -> None:
    answers = {
        3: TeacherAnswer("Arr ☠\n\u2028 x", "complete"),
        0: TeacherAnswer("Once", "truncated"),
        1: TeacherAnswer("", "failed", "HTTP 500"),
        2: TeacherAnswer("", "refused"),
        4: TeacherAnswer("Aye", "complete", sent_without=("temperature",)),
    }
    answer_log.save(tmp_path / "answers", requests(5), answers)
    loaded = answer_log.load(tmp_path / "answers", requests(5))
    assert loaded == {index: answer for index, answer in answers.items() if index != 1}


def test_answers_find_their_requests_by_content(tmp_path: Path) -> None:
    answer_log.save(tmp_path, requests(3), {2: TeacherAnswer("Arr", "complete")})
    assert answer_log.load(tmp_path, requests(3)[::-1]) == {0: TeacherAnswer("Arr", "complete")}
    assert answer_log.load(tmp_path, requests(2)) == {}


def test_broken_unicode_stays_recognizable(tmp_path: Path) -> None:
    answer_log.save(tmp_path, requests(1), {0: TeacherAnswer("a\ud800b", "complete")})
    assert answer_log.load(tmp_path, requests(1))[0].text == "a\ufffdb"


def test_damaged_log_is_an_error(tmp_path: Path) -> None:
    answer_log.save(tmp_path, requests(1), {0: TeacherAnswer("Arr", "complete")})
    path = tmp_path / answer_log.FILE_NAME
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptArtifactError, match="Line 1"):
        answer_log.load(tmp_path, requests(1))
