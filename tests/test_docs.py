"""The generated files are up to date, and the documentation names only what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"])
LINK = re.compile(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)")
TARGET = re.compile(r"^([a-z][a-z0-9-]*):", re.MULTILINE)


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "generate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_generated_files_are_up_to_date():
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_drift_of_every_generated_file_is_found_and_repaired(tmp_path):
    chart = Path("charts/persona-pruner/Chart.yaml")
    (tmp_path / chart).parent.mkdir(parents=True)
    text = (ROOT / chart).read_text(encoding="utf-8")
    (tmp_path / chart).write_text(
        re.sub(r"(?m)^(version|appVersion): .*", r"\1: 9.9.9", text), encoding="utf-8"
    )
    for path in ("pyproject.toml", "charts/persona-pruner/values.yaml"):
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    done = generate("--check", "--root", str(tmp_path))
    assert done.returncode == 1
    stale = {line.split(" is out of date")[0] for line in done.stderr.splitlines()}
    assert {"docs/spec.md", "docs/cli.md", str(chart), "charts/persona-pruner/README.md"} <= stale
    assert generate("--root", str(tmp_path)).returncode == 0
    assert generate("--check", "--root", str(tmp_path)).returncode == 0
    for path in stale:
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_make_targets_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert missing == []
    targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    named = set(re.findall(r"`make ([a-z0-9-]+)", text)) | set(re.findall(r"(?m)^make (\S+)", text))
    assert named - targets == set()


def test_every_page_is_linked_from_the_readme_or_a_page_it_links():
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        links = LINK.findall(page.read_text(encoding="utf-8"))
        waiting += [(page.parent / link).resolve() for link in links if link.endswith(".md")]
    assert {str(page.relative_to(ROOT)) for page in PAGES if page not in seen} == set()


def test_every_file_on_the_readme_map_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## Map of the repository\n\n```\n")[1].split("```")[0]
    parents: dict[int, Path] = {-2: ROOT}
    for line in block.splitlines():
        depth = len(line) - len(line.lstrip())
        parents[depth] = parents[max(level for level in parents if level < depth)] / line.split()[0]
        parents = {level: path for level, path in parents.items() if level <= depth}
        assert parents[depth].exists(), line
