"""The results of the stages, read and published by content key, and their resume states."""

import logging
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from ..errors import CorruptArtifactError, InputError, StoreError
from .base import ObjectChangedError, ObjectNotFoundError, ObjectStat, Store
from .files import sha256_file, store_error
from .manifest import FileEntry, ResumeManifest, StageManifest
from .transfer import download

MANIFEST_NAME = "manifest.json"
RESUME_FOLDER = "resume"
RESUME_MANIFEST = "resume.json"
KEPT_STATES = 2
PUBLISH_ROUNDS = 5

logger = logging.getLogger(__name__)


def stage_path(stage: str, key: str, name: str = "") -> str:
    """Return the path of a stage's folder in the store, or of the file `name` in it."""
    folder = f"stages/{stage}/{key}"
    return f"{folder}/{name}" if name else folder


class StageArtifacts:
    """The results of the stages in one store.

    Args:
        store: the store.
        cache_dir: where verified copies of remote objects are kept for later runs; None for a
            temporary folder that is removed with this object. Stores on this machine's disk are
            read in place, and each file is verified once per process.
    """

    def __init__(self, store: Store, cache_dir: Path | None = None) -> None:
        self.store = store
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._cache_dir = cache_dir
        self._verified: set[tuple[str, str, str | None]] = set()

    def manifest(self, stage: str, key: str) -> StageManifest | None:
        """Return the record of a finished stage, None if the stage is not finished.

        Raises:
            CorruptArtifactError: the record is unreadable or belongs to another stage or key.
        """
        path = stage_path(stage, key, MANIFEST_NAME)
        try:
            data = self.store.read_bytes(path)
        except ObjectNotFoundError:
            return None
        return StageManifest.from_json(
            data, subject=self.store.describe(path), stage=stage, key=key
        )

    def local_file(self, stage: str, key: str, name: str) -> Path:
        """Return a verified local copy of one file of a finished stage.

        Raises:
            CorruptArtifactError: the stage is not finished, has no such file, or the file is
                missing, truncated or altered.
        """
        manifest = self._require(stage, key)
        try:
            return self._fetch(manifest, name)
        except CorruptArtifactError:
            # Another process may have published the stage again in the meantime.
            current = self._require(stage, key)
            if current == manifest:
                raise
            return self._fetch(current, name)

    def local_dir(self, stage: str, key: str) -> Path:
        """Return a local directory with all files of a finished stage, verified.

        Raises:
            CorruptArtifactError: the stage is not finished, or a file is missing, truncated or
                altered.
        """
        for name in self._require(stage, key).files:
            self.local_file(stage, key, name)
        return self._local_folder(stage, key)

    def publish(self, manifest: StageManifest, directory: Path) -> StageManifest:
        """Store every file of `directory` and then the record that marks the stage as finished.

        A complete result that is already in the store is kept and returned. Two processes that
        publish one key at once may overwrite each other's files; after writing its record, each
        checks that all objects are the ones that the record names, and stores them again if not.

        Args:
            manifest: the record; this method fills in its `files`.
            directory: the files of the result.

        Returns:
            the record that is in the store now.

        Raises:
            StoreError: the store refuses the files, or other processes keep overwriting them.
            InputError: a file's name is reserved or not a valid object path.
        """
        finished = self.finished(manifest.stage, manifest.key)
        if finished is not None:
            return finished
        files = _entries(directory, reserved=(MANIFEST_NAME, f"{RESUME_FOLDER}/"))
        record = manifest.model_copy(update={"files": files})
        root = stage_path(record.stage, record.key) + "/"
        for attempt in range(PUBLISH_ROUNDS):
            uploaded: dict[str, ObjectStat] = {}
            for name in files:
                # Later rounds repair the mixed result of two processes, which looks finished.
                finished = None if attempt else self.finished(record.stage, record.key)
                if finished is not None and all(
                    finished.files.get(done) == files[done] for done in uploaded
                ):
                    return finished
                uploaded[name] = self.store.upload(root + name, directory / name)
            uploaded[MANIFEST_NAME] = self.store.write_bytes(root + MANIFEST_NAME, record.to_json())
            if all(self._unchanged(root + name, stat) for name, stat in uploaded.items()):
                return record
            current = self.finished(record.stage, record.key)
            if current is not None and self._consistent(current):
                return current
            time.sleep(secrets.randbelow(200) / 1000 * (attempt + 1))
        raise StoreError(
            f"Other processes keep overwriting {self.store.describe(root)}",
            hint="Stop the other run of this stage and run again",
        )

    def delete(self, stage: str, key: str) -> None:
        """Remove a stage's result: first its record, then its files."""
        self.store.delete(stage_path(stage, key, MANIFEST_NAME))
        self.store.delete_prefix(stage_path(stage, key))

    def save_state(
        self, stage: str, key: str, directory: Path, *, keep_all: bool = False, series: str = ""
    ) -> None:
        """Store the files of `directory` as the newest resume state and keep the one before it.

        Args:
            stage: the stage.
            key: its content key.
            directory: the files of the state.
            keep_all: keep all earlier states, where each holds another part of the work.
            series: name of this kind of state, where a stage has several; letters only.

        Raises:
            StoreError: the store refuses the files; the earlier states are unchanged.
        """
        files = _entries(directory, reserved=(RESUME_MANIFEST,))
        present = self._states(stage, key, series)
        number = max((int(name.split("-")[0]) for name in present), default=0) + 1
        # With the random part, two processes never write into one folder.
        name = f"{number:08d}-{secrets.token_hex(3)}" + (f"-{series}" if series else "")
        root = stage_path(stage, key, f"{RESUME_FOLDER}/{name}/")
        for file in files:
            self.store.upload(root + file, directory / file)
        record = ResumeManifest(files=files)
        self.store.write_bytes(
            root + RESUME_MANIFEST, record.model_dump_json(indent=2).encode() + b"\n"
        )
        if keep_all:
            return
        complete = [old for old, whole in present.items() if whole]
        keep = {name, *sorted(complete)[len(complete) - (KEPT_STATES - 1) :]}
        for old in set(present) - keep:
            self._clean_up(stage_path(stage, key, f"{RESUME_FOLDER}/{old}"))

    def load_state(self, stage: str, key: str, *, series: str = "") -> Path | None:
        """Return a local directory with the newest complete resume state, None if there is none.

        Damaged states are skipped with a warning.
        """
        return next(self.load_states(stage, key, series=series), None)

    def load_states(self, stage: str, key: str, *, series: str = "") -> Iterator[Path]:
        """Yield local directories with the complete resume states of a series, the newest first.

        Damaged states are skipped with a warning.
        """
        for name in sorted(self._states(stage, key, series), reverse=True):
            relative = f"{RESUME_FOLDER}/{name}"
            try:
                yield self._load_one(stage, key, relative)
            except (CorruptArtifactError, ObjectNotFoundError) as error:
                logger.warning("The resume state %s of stage %s is skipped: %s", name, stage, error)

    def clear_state(self, stage: str, key: str) -> None:
        """Remove all resume states of a stage; a failure is only logged."""
        self._clean_up(stage_path(stage, key, RESUME_FOLDER))

    def _clean_up(self, folder: str) -> None:
        """Remove what is no longer needed; work that is done does not fail with it."""
        try:
            self.store.delete_prefix(folder)
        except StoreError as error:
            logger.warning("What is no longer needed can't be removed now: %s", error)

    def _load_one(self, stage: str, key: str, relative: str) -> Path:
        root = stage_path(stage, key, relative)
        path = f"{root}/{RESUME_MANIFEST}"
        try:
            record = ResumeManifest.model_validate_json(self.store.read_bytes(path))
        except ValidationError:
            raise CorruptArtifactError(
                f"{self.store.describe(path)} is not a valid record of a resume state"
            ) from None
        folder = self._local_folder(stage, key) / relative
        for name, entry in record.files.items():
            self._verified_copy(f"{root}/{name}", folder / name, entry)
        return folder

    def _states(self, stage: str, key: str, series: str) -> dict[str, bool]:
        """Return the names of a series' stored states, and whether each has its record."""
        root = stage_path(stage, key, RESUME_FOLDER)
        found: dict[str, bool] = {}
        for path in self.store.list(root):
            name, _, file = path[len(root) + 1 :].partition("/")
            number, _, kind = name.partition("-")
            if file and number.isdigit() and kind.partition("-")[2] == series:
                found[name] = found.get(name, False) or file == RESUME_MANIFEST
        return found

    def finished(self, stage: str, key: str) -> StageManifest | None:
        """Return the record if all its files exist with the right sizes, None otherwise."""
        try:
            manifest = self.manifest(stage, key)
        except CorruptArtifactError as error:
            logger.warning("The earlier result is replaced: %s", error)
            return None
        if manifest is None:
            return None
        for name, entry in manifest.files.items():
            path = stage_path(stage, key, name)
            stat = self.store.stat(path)
            if stat is None or stat.size != entry.size:
                logger.warning(
                    "%s is missing or truncated: the earlier result is replaced",
                    self.store.describe(path),
                )
                return None
        return manifest

    def _unchanged(self, path: str, written: ObjectStat) -> bool:
        found = self.store.stat(path)
        return found is not None and found == written

    def _consistent(self, manifest: StageManifest) -> bool:
        """Read every file of a result and compare it with its record."""
        try:
            for name in manifest.files:
                self._fetch(manifest, name)
        except (CorruptArtifactError, ObjectChangedError, ObjectNotFoundError):
            return False
        return True

    def _require(self, stage: str, key: str) -> StageManifest:
        manifest = self.manifest(stage, key)
        if manifest is None:
            raise CorruptArtifactError(
                f"{self.store.describe(stage_path(stage, key, MANIFEST_NAME))} does not exist: "
                f"the stage {stage} is not finished",
                hint=f"Run the stage {stage} first",
            )
        return manifest

    def _fetch(self, manifest: StageManifest, name: str) -> Path:
        path = stage_path(manifest.stage, manifest.key, name)
        entry = manifest.files.get(name)
        if entry is None:
            raise CorruptArtifactError(
                f"The result of stage {manifest.stage} has no file {name}",
                hint=f"Delete {self._folder_url(path)} and run again to recreate it",
                subject=self.store.describe(path),
            )
        folder = self._local_folder(manifest.stage, manifest.key)
        return self._verified_copy(path, folder / name, entry)

    def _verified_copy(self, path: str, local: Path, entry: FileEntry) -> Path:
        """Return a local file with the recorded size and checksum, fetched from a remote store."""
        in_place = self.store.local_path(path)
        if in_place is None:
            if self._is_verified(path, entry, _local_tag(local)):
                return local
            try:
                download(self.store, path, local, size=entry.size, sha256=entry.sha256)
            except ObjectNotFoundError:
                raise self._damaged(path, "it does not exist") from None
            self._verified.add((path, entry.sha256, _local_tag(local)))
            return local
        stat = self.store.stat(path)
        if stat is None:
            raise self._damaged(path, "it does not exist")
        if stat.size != entry.size:
            raise self._damaged(path, f"it has {stat.size:,} bytes instead of {entry.size:,}")
        if not self._is_verified(path, entry, stat.etag):
            try:
                digest = sha256_file(in_place)
            except OSError as error:
                raise store_error(
                    error, action="read", subject=self.store.describe(path)
                ) from error
            if digest != entry.sha256:
                raise self._damaged(path, "its SHA-256 differs from the recorded one")
            self._verified.add((path, entry.sha256, stat.etag))
        return in_place

    def _is_verified(self, path: str, entry: FileEntry, tag: str | None) -> bool:
        return tag is not None and (path, entry.sha256, tag) in self._verified

    def _damaged(self, path: str, reason: str) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"{self.store.describe(path)} is truncated or altered: {reason}",
            hint=f"Delete {self._folder_url(path)} and run again to recreate it",
            subject=self.store.describe(path),
        )

    def _folder_url(self, path: str) -> str:
        return self.store.describe(path.rpartition("/")[0])

    def _local_folder(self, stage: str, key: str) -> Path:
        in_place = self.store.local_path(stage_path(stage, key))
        if in_place is not None:
            return in_place
        if self._cache_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="persona-store-")
            self._cache_dir = Path(self._temporary.name)
        return self._cache_dir / stage_path(stage, key)


def _local_tag(local: Path) -> str | None:
    try:
        status = local.stat()
    except OSError:
        return None
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def _entries(directory: Path, *, reserved: tuple[str, ...]) -> dict[str, FileEntry]:
    """Return size and checksum of every file below `directory` by its relative POSIX path."""
    entries: dict[str, FileEntry] = {}
    try:
        for file in sorted(directory.rglob("*")):
            if not file.is_file():
                continue
            name = file.relative_to(directory).as_posix()
            if any(
                name == taken or (taken.endswith("/") and name.startswith(taken))
                for taken in reserved
            ):
                raise InputError(f"The output file name {name} is reserved", hint="Rename the file")
            entries[name] = FileEntry(sha256=sha256_file(file), size=file.stat().st_size)
    except OSError as error:
        raise store_error(error, action="read", subject=str(directory)) from error
    return entries
