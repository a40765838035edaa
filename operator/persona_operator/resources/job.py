"""The Job of one attempt of one stage."""

from dataclasses import dataclass, field

from persona_jobs.api.common import SecretKeyRef
from persona_jobs.errors import EXIT_INPUT, EXIT_OUT_OF_MEMORY
from persona_jobs.pipeline.pins import RESOLVE
from persona_jobs.pipeline.references import OWNER_VARIABLE

from ..labels import (
    ATTEMPT_ANNOTATION,
    KEY_ANNOTATION,
    KEY_LABEL,
    QUEUE_LABEL,
    STAGE_CONTAINER,
    STAGE_LABEL,
    STORE_ANNOTATION,
    TEMPLATE_ANNOTATION,
    common_labels,
    job_name,
    key_label,
)
from ..settings import Profile, SecurityContext, Volume
from ..store_access import StoreAccess
from .common import (
    CACHE_PATH,
    SCRATCH_PATH,
    Images,
    Manifest,
    Owner,
    checksum,
    container_security,
    environment,
    image_pull_secrets,
    object_metadata,
    placement,
    pod_security,
    resources,
    scratch_volume,
    store_credentials,
    store_environment,
    store_volumes,
    volume_source,
)
from .config_map import MANIFEST_FILE
from .pod_template import merge_pod_template

MANIFEST_DIRECTORY = "/etc/persona"
# A stage saves its resume state within this time after SIGTERM.
GRACE_SECONDS = 120
# A sidecar would keep a pod running whose stage has ended (Istio, Kuma, Linkerd, Consul).
NO_SIDECAR_LABELS = {
    "sidecar.istio.io/inject": "false",
    "kuma.io/sidecar-injection": "disabled",
}
NO_SIDECAR_ANNOTATIONS = {
    "linkerd.io/inject": "disabled",
    "consul.hashicorp.com/connect-inject": "false",
}
# The operator deletes finished Jobs itself; this is for those that it doesn't see any more.
FINISHED_JOB_SECONDS = 3600


@dataclass(frozen=True)
class StageJob:
    """Plain values of a stage's Job.

    Attributes:
        owner: the PersonaModel.
        stage: name of the stage, or `resolve` for the lookup of the sources.
        key: its content key.
        attempt: 1 for the first one.
        config_map: ConfigMap with the PersonaModel.
        images: the jobs image.
        profile: resources and placement.
        store: the artifact store.
        cache: volume of downloaded base models.
        env: further plain environment.
        secrets: environment variables from Secret keys.
        source_secrets: Secrets with the credentials of single sources, by the prefix of their
            environment variables.
        security_context: whether the operator or the platform sets users and groups.
        queue_labels: Kueue's labels; a queued Job starts suspended.
    """

    owner: Owner
    stage: str
    key: str
    attempt: int
    config_map: str
    images: Images
    profile: Profile
    store: StoreAccess
    cache: Volume | None = None
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, SecretKeyRef] = field(default_factory=dict)
    source_secrets: dict[str, str] = field(default_factory=dict)
    security_context: SecurityContext = "Restricted"
    queue_labels: dict[str, str] = field(default_factory=dict)


def build_job(job: StageJob) -> Manifest:
    """Build a Job with one pod; the operator itself retries failed Jobs.

    `podFailurePolicy` first ignores disruptions (the pod is replaced and no failure is counted),
    then ends the Job at once on the exit codes for which a retry is pointless.
    """
    labels = {
        **common_labels(job.owner.name, "stage"),
        STAGE_LABEL: job.stage,
        KEY_LABEL: key_label(job.key),
    }
    template = _template(job, labels)
    annotations = {
        KEY_ANNOTATION: job.key,
        ATTEMPT_ANNOTATION: str(job.attempt),
        STORE_ANNOTATION: job.store.identity,
        TEMPLATE_ANNOTATION: checksum(template),
    }
    spec: Manifest = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": STAGE_CONTAINER,
                        "operator": "In",
                        "values": [EXIT_INPUT, EXIT_OUT_OF_MEMORY],
                    },
                },
            ]
        },
        "ttlSecondsAfterFinished": FINISHED_JOB_SECONDS,
        "template": template,
    }
    if QUEUE_LABEL in job.queue_labels:
        spec["suspend"] = True
    name = job_name(job.owner.name, job.stage, job.key, job.attempt)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": object_metadata(job.owner, name, {**labels, **job.queue_labels}, annotations),
        "spec": spec,
    }


def template_checksum(job: StageJob) -> str:
    """Return the Job's template annotation: it changes whenever the pod would."""
    built: str = build_job(job)["metadata"]["annotations"][TEMPLATE_ANNOTATION]
    return built


def _credentials(job: StageJob) -> Manifest:
    """Return the `envFrom` field, nothing where there are no credentials."""
    own = [
        {"prefix": prefix, "secretRef": {"name": name}}
        for prefix, name in job.source_secrets.items()
    ]
    given = [*store_credentials(job.store).get("envFrom", []), *own]
    return {"envFrom": given} if given else {}


def _process(stage: str) -> Manifest:
    if stage == RESOLVE:
        return {"command": ["python", "-m", "persona_jobs.resolve"]}
    return {"command": ["python", "-m", "persona_jobs"], "args": [stage]}


def _template(job: StageJob, labels: dict[str, str]) -> Manifest:
    profile = job.profile
    volumes, mounts = store_volumes(job.store)
    volumes = [
        {"name": "manifest", "configMap": {"name": job.config_map}},
        scratch_volume(profile),
        {"name": "tmp", "emptyDir": {}},
        *volumes,
    ]
    mounts = [
        # Mounted as a single file, because /etc/persona/ca is in the same directory.
        {
            "name": "manifest",
            "mountPath": f"{MANIFEST_DIRECTORY}/{MANIFEST_FILE}",
            "subPath": MANIFEST_FILE,
            "readOnly": True,
        },
        {"name": "scratch", "mountPath": SCRATCH_PATH},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- a path inside the container
        *mounts,
    ]
    if job.cache:
        volumes.append({"name": "cache", **volume_source(job.cache)})
        mounts.append({"name": "cache", "mountPath": CACHE_PATH})
    variables = {
        **job.env,
        "HOME": SCRATCH_PATH,
        "PERSONA_MANIFEST": f"{MANIFEST_DIRECTORY}/{MANIFEST_FILE}",
        "PERSONA_SCRATCH": SCRATCH_PATH,
        OWNER_VARIABLE: job.owner.uid,
        "PERSONA_CACHE": CACHE_PATH if job.cache else f"{SCRATCH_PATH}/cache",
    }
    secrets = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}
        for name, ref in job.secrets.items()
    ]
    container: Manifest = {
        "name": STAGE_CONTAINER,
        "image": job.images.image,
        "imagePullPolicy": job.images.pull_policy,
        **_process(job.stage),
        "env": [*environment(variables), *store_environment(job.store), *secrets],
        **_credentials(job),
        "resources": resources(profile),
        "securityContext": container_security(),
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }
    metadata: Manifest = {
        "labels": {**NO_SIDECAR_LABELS, **profile.pod_labels, **labels},
        "annotations": {**NO_SIDECAR_ANNOTATIONS, **profile.pod_annotations},
    }
    # A Job's own deadline would include the time in which its pod waits for a node.
    deadline = profile.active_deadline_seconds
    built = {
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never",
            **({"activeDeadlineSeconds": deadline} if deadline else {}),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": pod_security(job.security_context),
            **image_pull_secrets(job.images),
            **placement(profile),
            "containers": [container],
            "volumes": volumes,
        },
    }
    return merge_pod_template(built, profile.pod_template)
