"""Reading the profiles again when their file changes."""

import logging
from pathlib import Path

import pytest

from persona_operator.profiles_file import ProfilesFile
from persona_operator.settings import Profile, Settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "profiles.yaml"
    file.write_text("default: {cpu: 1}")
    return file


def test_a_changed_file_gives_other_profiles(path: Path) -> None:
    profiles = ProfilesFile(path, {})
    assert profiles.read() == {"default": Profile(cpu="1")}
    path.write_text("default: {cpu: 2}\nmask: {gpus: 1}")
    assert profiles.read() == {"default": Profile(cpu="2"), "mask": Profile(gpus=1)}
    assert profiles.valid


@pytest.mark.parametrize("text", ["default: {cpus: 1}", "[", "- a", None])
def test_a_wrong_file_keeps_the_former_profiles_and_is_logged_once(
    path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    profiles = ProfilesFile(path, {})
    former = profiles.read()
    caplog.clear()
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert [profiles.read(), profiles.read()] == [former, former]
    assert not profiles.valid
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "profiles.yaml" in errors[0].getMessage()
    path.write_text("default: {cpu: 3}")
    assert profiles.read() == {"default": Profile(cpu="3")}
    assert profiles.valid


def test_an_empty_file_has_no_profiles(path: Path) -> None:
    path.write_text("")
    assert ProfilesFile(path, {"default": Profile()}).read() == {}


def test_the_settings_name_the_file(path: Path) -> None:
    config = path.parent / "config.yaml"
    config.write_text(f"profilesFile: {path}")
    assert Settings.load(config).profiles == {"default": Profile(cpu="1")}


def test_profiles_of_the_settings_themselves_stay() -> None:
    given = {"default": Profile(cpu="1")}
    assert ProfilesFile(None, given).read() == given
