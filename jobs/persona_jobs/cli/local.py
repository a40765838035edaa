"""Running on one machine: where things are kept, and what the keys hold."""

import os
import sys
from pathlib import Path

from ..api import PersonaModel, PersonaModelSpec, parse_resource
from ..pipeline.number_format import with_number_format
from ..sources.resolve import SourceResolver

# One of them exists wherever torch can find a GPU: NVIDIA, its embedded boards, WSL, AMD.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/dxg", "/dev/kfd")


def default_store(file: Path) -> str:
    """Return the URL of the local store: `.persona/store` beside the file."""
    return (file.resolve().parent / ".persona" / "store").as_uri()


def default_cache() -> Path:
    """Return the folder for base models and downloads: PERSONA_CACHE, or the user's cache."""
    configured = os.environ.get("PERSONA_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "persona-pruner"


def apply_storage_settings(spec: PersonaModelSpec) -> None:
    """Put the S3 settings of `spec.storage` into the environment of this process.

    So the store and every `s3://` source are reached at the same server, as in a cluster, where the
    operator gives each pod these variables.
    """
    storage = spec.storage
    if storage.endpoint:
        os.environ["AWS_ENDPOINT_URL_S3"] = storage.endpoint
    if storage.region:
        os.environ["AWS_REGION"] = storage.region
    if storage.addressing_style:
        style = "virtual" if storage.addressing_style == "VirtualHost" else "path"
        os.environ["AWS_S3_ADDRESSING_STYLE"] = style


def resolved(resource: PersonaModel) -> PersonaModel:
    """Return the resource with all that its content keys depend on settled.

    Raises:
        InputError: a source doesn't exist.
        StoreError: a source can't be reached or read now.
    """
    apply_storage_settings(resource.spec)
    document = resource.manifest()
    SourceResolver(default_cache(), os.environ).resolve(document["spec"])
    resource = parse_resource(document)
    spec = with_number_format(resource.spec, _has_cuda)
    return resource.model_copy(update={"spec": spec})


def uses_gpu(spec: PersonaModelSpec) -> bool:
    """Return whether the stages of the spec run on a GPU of this machine."""
    device = spec.compute.device
    return device == "CUDA" or (device == "Auto" and _has_cuda())


def _has_cuda() -> bool:
    """Return what torch says, without loading it where there is no GPU to be found."""
    if sys.platform == "linux" and not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    from ..models.compute import has_cuda

    return has_cuda()
