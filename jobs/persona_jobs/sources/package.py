"""Files inside installed Python packages: `pkg://<import name>/<path>`."""

import importlib.util
from pathlib import Path

from ..errors import InputError


def package_path(uri: str) -> Path:
    """Return the file or directory that a `pkg://` URI names. The package is not imported.

    Raises:
        InputError: a malformed URI, no such package, or nothing of that name in it.
    """
    name, _, inner = uri.removeprefix("pkg://").partition("/")
    parts = inner.split("/")
    # A dotted name would import the parent package.
    if not name.isidentifier() or any(part in {"", ".", ".."} or "\\" in part for part in parts):
        raise InputError(
            f"{uri[:200]!r} is malformed",
            hint="use pkg://import_name/file.gguf",
            subject=uri[:200],
        )
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise InputError(
            f"the package {name} is not installed",
            hint=f"install it: pip install --no-deps {name.replace('_', '-')}",
            subject=uri,
        )
    for folder in folders:
        path = Path(folder, *parts)
        if path.exists():
            return path
    raise InputError(f"the package {name} has no file {inner}", hint=_others(folders), subject=uri)


def _others(folders: list[str]) -> str:
    found = sorted(file.name for folder in folders for file in Path(folder).glob("*.gguf"))
    return f"it has: {', '.join(found[:5])}" if found else "correct the file's name"
