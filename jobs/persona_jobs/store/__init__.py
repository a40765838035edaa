"""The artifact store: stage results on a local disk or in an S3 bucket, verified by checksum.

No module of this package imports torch, so that the operator can use it.
"""

from .artifacts import StageArtifacts, stage_path
from .base import ObjectNotFoundError, ObjectStat, ProgressCallback, Store, validate_path
from .file import FileStore
from .manifest import FileEntry, StageManifest
from .options import S3Options, gives_credentials
from .s3 import S3Store
from .transfer import download
from .urls import open_store

__all__ = [
    "FileEntry",
    "FileStore",
    "ObjectNotFoundError",
    "ObjectStat",
    "ProgressCallback",
    "S3Options",
    "S3Store",
    "StageArtifacts",
    "StageManifest",
    "Store",
    "download",
    "gives_credentials",
    "open_store",
    "stage_path",
    "validate_path",
]
