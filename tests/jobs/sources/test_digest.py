import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from persona_jobs.errors import InputError
from persona_jobs.sources import digest


def test_the_digest_of_a_file_changes_with_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a b.jsonl"
    path.write_bytes(b"content")
    expected = "sha256:" + hashlib.sha256(b"content").hexdigest()
    assert digest(f"file://{path}") == expected
    assert digest(f"file://{path}".replace(" ", "%20")) == expected
    path.write_bytes(b"changed")
    assert digest(f"file://{path}") != expected


def test_the_digest_of_a_directory_covers_names_and_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, order in ((first, ("a", "b")), (second, ("b", "a"))):
        (folder / "sub").mkdir(parents=True)
        for name in order:
            (folder / name).write_bytes(name.encode())
            (folder / "sub" / name).write_bytes(name.encode())
    before = digest(f"file://{first}")
    assert before == digest(f"file://{second}/")
    (second / ".hidden").write_bytes(b"x")
    assert digest(f"file://{second}") == before
    (second / "a").rename(second / "c")
    assert digest(f"file://{second}") != before
    (second / "c").rename(second / "a")
    (second / "sub" / "a").write_bytes(b"other")
    assert digest(f"file://{second}") != before


@pytest.mark.parametrize(
    "uri", ["hf://a/b", "s3://bucket/x", "pkg://p/x.gguf", "builtin://general"]
)
def test_other_sources_have_no_digest(uri: str) -> None:
    assert digest(uri) is None


def test_a_missing_or_empty_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        digest(f"file://{tmp_path}/absent")
    with pytest.raises(InputError, match="contains no files"):
        digest(f"file://{tmp_path}")


def test_the_digest_needs_no_torch() -> None:
    code = (
        "import sys; from persona_jobs.sources import digest; "
        "import persona_jobs.sources.personas, persona_jobs.sources.evaluation_files, "
        "persona_jobs.sources.instructions, persona_jobs.sources.base_model; "
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
