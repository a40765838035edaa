"""The artifact store: stage outputs on a local disk or in an S3 bucket, verified by checksum.

No module of this package imports torch, so that the operator can use it.
"""

from persona_jobs.store.artifacts import StageArtifacts
from persona_jobs.store.base import (
    ObjectNotFoundError,
    ObjectStat,
    ProgressCallback,
    Store,
    validate_path,
)
from persona_jobs.store.file import FileStore
from persona_jobs.store.manifest import FileEntry, Manifest
from persona_jobs.store.options import S3Options
from persona_jobs.store.s3 import S3Store
from persona_jobs.store.urls import open_store

__all__ = [
    "FileEntry",
    "FileStore",
    "Manifest",
    "ObjectNotFoundError",
    "ObjectStat",
    "ProgressCallback",
    "S3Options",
    "S3Store",
    "StageArtifacts",
    "Store",
    "open_store",
    "validate_path",
]
