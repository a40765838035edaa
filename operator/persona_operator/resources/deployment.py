"""The Deployment that serves one revision."""

from dataclasses import dataclass, field

from ..labels import (
    COMPONENT_LABEL,
    FETCH_CONTAINER,
    PERSONA_LABEL,
    REVISION_LABEL,
    SERVING_CONTAINER,
    common_labels,
)
from ..settings import Profile, SecurityContext
from ..store_access import StoreAccess
from .common import (
    SCRATCH_PATH,
    Images,
    Manifest,
    Owner,
    container_security,
    environment,
    image_pull_secrets,
    model_volume,
    object_metadata,
    placement,
    pod_security,
    resources,
    scratch_volume,
    store_credentials,
    store_environment,
    store_volumes,
    with_checksum,
)
from .pod_template import merge_pod_template

COMPONENT = "serving"
MODEL_PATH = "/model"
PORT = 8000
PROBE_SECONDS = 5
VLLM_DRAIN_SECONDS = 25
"""Time for the Service to notice that a vLLM pod ends, and for its answers: SIGTERM ends them."""
# PyTorch asks for the user's name, which a user id without a passwd entry does not have, and only
# the scratch volume can be written to.
_VLLM_ENV = {
    "USER": "persona",
    "LOGNAME": "persona",
    "XDG_CACHE_HOME": f"{SCRATCH_PATH}/cache",
    "XDG_CONFIG_HOME": f"{SCRATCH_PATH}/config",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH_PATH}/cache/torchinductor",
    "TRITON_CACHE_DIR": f"{SCRATCH_PATH}/cache/triton",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class ServingDeployment:
    """Plain values of the Deployment.

    Attributes:
        owner: the PersonaModel.
        revision: id of the revision.
        slice_key: content key of its checkpoint.
        engine: `Transformers` or `VLLM`.
        fetch_images: the jobs image, which fetches the checkpoint.
        images: image of the engine.
        profile: resources and placement.
        store: the artifact store.
        replicas: number of pods, None where a HorizontalPodAutoscaler decides.
        progress_deadline_seconds: time for new pods to become ready.
        max_context_tokens: longest conversation, None for the model's own limit.
        env: further plain environment.
        security_context: whether the operator or the platform sets users and groups.
    """

    owner: Owner
    revision: str
    slice_key: str
    engine: str
    fetch_images: Images
    images: Images
    profile: Profile
    store: StoreAccess
    replicas: int | None
    progress_deadline_seconds: int
    max_context_tokens: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    security_context: SecurityContext = "Restricted"


def serving_selector(persona: str) -> dict[str, str]:
    """Return the labels by which Service, Deployment and scale subresource find the pods."""
    return {PERSONA_LABEL: persona, COMPONENT_LABEL: COMPONENT}


def build_deployment(serving: ServingDeployment) -> Manifest:
    """Build a Deployment whose init container fetches and verifies the checkpoint, once per pod.

    Where pods request GPUs or claim devices, an old pod ends before its successor starts: on a full
    cluster the successor would wait forever for the old one's device.
    """
    labels = common_labels(serving.owner.name, COMPONENT)
    revision = {REVISION_LABEL: serving.revision}
    template = _template(serving, {**labels, **revision})
    holds_devices = serving.profile.gpus or template["spec"].get("resourceClaims")
    surge = (0, 1) if holds_devices else (1, 0)
    spec: Manifest = {
        "selector": {"matchLabels": serving_selector(serving.owner.name)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": surge[0], "maxUnavailable": surge[1]},
        },
        "progressDeadlineSeconds": serving.progress_deadline_seconds,
        "revisionHistoryLimit": 3,
        "template": template,
    }
    if serving.replicas is not None:
        spec["replicas"] = serving.replicas
    return with_checksum(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": object_metadata(serving.owner, serving.owner.name, {**labels, **revision}),
            "spec": spec,
        }
    )


def _template(serving: ServingDeployment, labels: dict[str, str]) -> Manifest:
    profile = serving.profile
    volumes, mounts = store_volumes(serving.store)
    shared = [
        {"name": "scratch", "mountPath": SCRATCH_PATH},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- a path inside the container
    ]
    home = {**serving.env, "HOME": SCRATCH_PATH}
    engine_env = {
        **(_VLLM_ENV if serving.engine == "VLLM" else {}),
        **serving.env,
        **{variable.name: variable.value for variable in profile.env},
    }
    fetch: Manifest = {
        "name": FETCH_CONTAINER,
        "image": serving.fetch_images.image,
        "imagePullPolicy": serving.fetch_images.pull_policy,
        "command": ["python", "-m", "persona_jobs.fetch"],
        "args": ["slice", serving.slice_key, MODEL_PATH],
        "env": [
            *environment({**home, "PERSONA_SCRATCH": SCRATCH_PATH}),
            *store_environment(serving.store),
        ],
        **store_credentials(serving.store),
        "securityContext": container_security(),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [*shared, {"name": "model", "mountPath": MODEL_PATH}, *mounts],
    }
    serve: Manifest = {
        "name": SERVING_CONTAINER,
        "image": serving.images.image,
        "imagePullPolicy": serving.images.pull_policy,
        **_engine(serving),
        "env": environment({**engine_env, "HOME": SCRATCH_PATH}),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        **_probes(serving.engine, serving.progress_deadline_seconds),
        "resources": resources(profile),
        "securityContext": container_security(),
        "volumeMounts": [*shared, {"name": "model", "mountPath": MODEL_PATH, "readOnly": True}],
    }
    if profile.gpus:
        # Engines exchange tensors between their processes in shared memory.
        volumes = [*volumes, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
        serve["volumeMounts"] = [
            *serve["volumeMounts"],
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 -- inside the container
        ]
    metadata: Manifest = {"labels": {**profile.pod_labels, **labels}}
    if profile.pod_annotations:
        metadata["annotations"] = profile.pod_annotations
    built = {
        "metadata": metadata,
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 60,
            "securityContext": pod_security(serving.security_context),
            **image_pull_secrets(serving.images),
            **placement(profile),
            "initContainers": [fetch],
            "containers": [serve],
            "volumes": [
                model_volume(profile),
                scratch_volume(profile),
                {"name": "tmp", "emptyDir": {}},
                *volumes,
            ],
        },
    }
    return merge_pod_template(built, profile.pod_template)


def _engine(serving: ServingDeployment) -> Manifest:
    args: list[str] = []
    limit, gpus = serving.max_context_tokens, serving.profile.gpus
    if serving.engine == "VLLM" and gpus > 1:
        args += ["--tensor-parallel-size", str(gpus)]
    if serving.engine == "Transformers":
        args += ["--host", "*"]
    # Of an argument that is given twice the last one counts: the model and the port stay.
    args += serving.profile.args
    args += ["--model", MODEL_PATH, "--served-model-name", serving.owner.name, "--port", str(PORT)]
    if serving.engine == "VLLM":
        args += ["--max-model-len", str(limit)] if limit else []
        # Until SIGTERM the server answers as before.
        return {"args": args, "lifecycle": {"preStop": {"sleep": {"seconds": VLLM_DRAIN_SECONDS}}}}
    args += ["--max-context-tokens", str(limit)] if limit else []
    return {"command": ["python", "-m", "persona_jobs.serve"], "args": args}


def _probes(engine: str, progress_deadline_seconds: int) -> Manifest:
    # A quarter of the deadline is left for pulling the image and fetching the checkpoint.
    startup_seconds = progress_deadline_seconds * 3 // 4
    ready, live = ("/health", "/health") if engine == "VLLM" else ("/readyz", "/healthz")

    def probe(path: str, failures: int) -> Manifest:
        return {
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": PROBE_SECONDS,
            "timeoutSeconds": PROBE_SECONDS,
            "failureThreshold": failures,
        }

    return {
        "startupProbe": probe(ready, max(1, startup_seconds // PROBE_SECONDS)),
        "readinessProbe": probe(ready, 2),
        "livenessProbe": probe(live, 6),
    }
