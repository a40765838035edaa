"""The Helm chart, rendered by the real helm."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from persona_jobs import __version__
from persona_operator.crd import custom_resource_definition, recipe_definition
from persona_operator.settings import Profile, Retry, Settings

CHART = Path(__file__).parents[2] / "charts" / "persona-pruner"
HELM = shutil.which("helm")
KUBERNETES = "1.31.0"  # the oldest that docs/install.md names
PROFILES_PATH = "/etc/persona-operator-profiles/profiles.yaml"
KUBE_SCORE = shutil.which("kube-score")
if HELM is None:
    pytest.skip("helm is not on PATH, so no test of the chart runs", allow_module_level=True)

Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    # Without a cluster helm takes the version it was built for, which may be an old one.
    version = ["--kube-version", KUBERNETES] if "--kube-version" not in arguments else []
    return subprocess.run(
        [HELM, *arguments, *version],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"KUBECONFIG": os.devnull},  # no cluster takes part
    )


def template(tmp_path: Path, values: Manifest | None = None, *arguments: str) -> list[Manifest]:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values or {}), encoding="utf-8")
    result = helm(
        "template", "pruner", str(CHART), "-n", "persona-system", "-f", str(file), *arguments
    )
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def refusal(tmp_path: Path, values: Manifest) -> str:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    result = helm("template", "pruner", str(CHART), "-f", str(file))
    assert result.returncode != 0
    return result.stderr


def only(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    found = [
        m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(name or "")
    ]
    assert len(found) == 1, [m["metadata"]["name"] for m in found]
    return found[0]


def settings(manifests: list[Manifest], tmp_path: Path) -> Settings:
    file = tmp_path / "config.yaml"
    data = only(manifests, "ConfigMap", "persona-pruner")["data"]["config.yaml"]
    profiles = tmp_path / "profiles.yaml"
    file.write_text(data.replace(PROFILES_PATH, str(profiles)), encoding="utf-8")
    text = only(manifests, "ConfigMap", "-profiles")["data"]["profiles.yaml"]
    profiles.write_text(text, encoding="utf-8")
    return Settings.load(file)


def container(manifests: list[Manifest]) -> Manifest:
    (result,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return result


FULL: Manifest = {
    "store": {
        "uri": "s3://personas/prod",
        "endpoint": "https://minio.storage.svc:9000",
        "region": "eu-central-1",
        "addressingStyle": "Path",
        "credentialsSecret": "store",
        "caConfigMap": {"name": "private-ca", "key": "bundle.pem"},
    },
    "image": {
        "registry": "registry.local:5000/mirror",
        "pullPolicy": "Always",
        "pullSecrets": ["registry"],
    },
    "profiles": {
        "mask": {
            "cpu": "4",
            "memory": "48Gi",
            "gpus": 1,
            "gpuResource": "amd.com/gpu",
            "scratch": "100Gi",
            "scratchStorageClass": "fast",
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "runtimeClassName": "nvidia",
            "priorityClassName": "batch",
            "activeDeadlineSeconds": 2592000,
            "podAnnotations": {"a": "b"},
            "podLabels": {"team": "voices"},
            "args": ["--max-queue", "4"],
            "env": [{"name": "OMP_NUM_THREADS", "value": "4"}],
            "podTemplate": {
                "metadata": {"annotations": {"a": "c"}},
                "spec": {
                    "securityContext": {"runAsUser": 1000650000},
                    "containers": [{"name": "stage", "resources": {"limits": {"cpu": 8}}}],
                },
            },
        }
    },
    "cache": {"claimName": "models"},
    "env": {"HTTPS_PROXY": "http://proxy:3128"},
    "operator": {
        "image": {"digest": "sha256:" + "0" * 64},
        "logLevel": "DEBUG",
        "retry": {"maxRetries": 1, "backoffSeconds": 2.5, "maxBackoffSeconds": 60},
        "maxParallelStages": 4,
        "maxParallelRollouts": 2,
        "tuning": {
            "reconcileIntervalSeconds": 5,
            "resyncSeconds": 60,
            "blockedGraceSeconds": 0,
            "watchDeadlineSeconds": 30,
            "storeProbeSeconds": 10,
            "deleteTimeoutSeconds": 20,
        },
    },
    "metrics": {"port": 9191},
}


def test_lint():
    result = helm("lint", "--strict", str(CHART))
    assert result.returncode == 0, result.stdout + result.stderr


# One operator suffices, a second one only stands by; no CPU limit, so that it isn't throttled; the
# pull policy and network policies are the administrator's.
NOT_WANTED = [
    "deployment-replicas",
    "deployment-strategy",
    "container-image-pull-policy",
    "pod-networkpolicy",
]


@pytest.mark.skipif(KUBE_SCORE is None, reason="kube-score is not on PATH")
def test_kube_score(tmp_path):
    manifests = template(tmp_path, FULL, "--set", "crds.install=false")
    result = subprocess.run(
        [
            str(KUBE_SCORE),
            "score",
            "--ignore-container-cpu-limit",
            *(f"--ignore-test={name}" for name in NOT_WANTED),
            "-",
        ],
        input=yaml.safe_dump_all(manifests),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_default_objects(tmp_path):
    manifests = template(tmp_path)
    assert sorted((m["kind"], m["metadata"]["name"]) for m in manifests) == [
        ("ClusterRole", "persona-system-pruner-persona-pruner"),
        ("ClusterRole", "persona-system-pruner-persona-pruner-edit"),
        ("ClusterRole", "persona-system-pruner-persona-pruner-view"),
        ("ClusterRoleBinding", "persona-system-pruner-persona-pruner"),
        ("ConfigMap", "pruner-persona-pruner"),
        ("ConfigMap", "pruner-persona-pruner-profiles"),
        ("CustomResourceDefinition", "personamodels.persona-pruner.io"),
        ("CustomResourceDefinition", "personarecipes.persona-pruner.io"),
        ("Deployment", "pruner-persona-pruner"),
        ("Role", "persona-system-pruner-persona-pruner"),
        ("RoleBinding", "persona-system-pruner-persona-pruner"),
        ("Service", "pruner-persona-pruner-metrics"),
        ("ServiceAccount", "pruner-persona-pruner"),
    ]


def test_the_operator_may_use_the_lease_of_what_it_watches(tmp_path):
    def places(values):
        return {
            (role["kind"], role["metadata"].get("namespace"))
            for role in template(tmp_path, values)
            if role["kind"] in {"Role", "ClusterRole"}
            and any(rule["resources"] == ["leases"] for rule in role["rules"])
        }

    assert places({"operator": {"replicas": 2}}) == {("Role", "kube-system")}
    elsewhere = {"operator": {"tuning": {"leaseNamespace": "operators"}}}
    assert places(elsewhere) == {("Role", "operators")}
    assert places({"namespaces": ["a", "b"]}) == {("Role", "a"), ("Role", "b")}
    deployment = only(template(tmp_path, {"operator": {"replicas": 2}}), "Deployment")
    assert deployment["spec"]["replicas"] == 2


def test_name_of_the_release_is_not_doubled(tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text("{}")
    result = helm("template", "persona-pruner", str(CHART), "-s", "templates/deployment.yaml")
    assert yaml.safe_load(result.stdout)["metadata"]["name"] == "persona-pruner"


def test_one_operator_at_a_time_under_restricted_pod_security(tmp_path):
    spec = only(template(tmp_path), "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert "strategy" not in spec  # a further pod stands by until the Lease is free
    pod = spec["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (operator,) = pod["containers"]
    assert operator["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()


def test_users_and_groups_can_be_left_to_the_platform(tmp_path):
    manifests = template(tmp_path, {"securityContext": "Platform"})
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert settings(manifests, tmp_path).security_context == "Platform"
    assert settings(template(tmp_path), tmp_path).security_context == "Restricted"


def test_probes_and_ports_agree_with_the_settings(tmp_path):
    manifests = template(tmp_path, FULL)
    ports = {port["name"]: port["containerPort"] for port in container(manifests)["ports"]}
    loaded = settings(manifests, tmp_path)
    assert ports == {"health": loaded.health_port, "metrics": loaded.metrics_port}
    for probe, path in (
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ):
        assert container(manifests)[probe]["httpGet"] == {"path": path, "port": "health"}
    service = only(manifests, "Service")["spec"]
    assert service["ports"][0]["port"] == loaded.metrics_port == 9191
    pod_labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= pod_labels.items()


def test_defaults_are_settings_the_operator_takes(tmp_path):
    loaded = settings(template(tmp_path), tmp_path)
    assert loaded.jobs_image == f"persona-pruner/jobs:{__version__}"
    assert loaded.store.uri is None
    assert loaded.store.ca_config_map is None
    assert set(loaded.profiles) == {"default", "serving"}
    assert loaded.namespaces == []
    assert loaded.cache is None
    # What the chart doesn't set keeps the operator's own default.
    assert loaded.retry == Retry()
    assert loaded.reconcile_interval_seconds == Settings().reconcile_interval_seconds


def test_everything_set_reaches_the_operator(tmp_path):
    manifests = template(tmp_path, FULL)
    loaded = settings(manifests, tmp_path)
    dumped = loaded.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert dumped["store"] == FULL["store"]
    assert dumped["profiles"]["mask"] == FULL["profiles"]["mask"]
    assert dumped["cache"] == FULL["cache"]
    assert dumped["env"] == FULL["env"]
    assert dumped["retry"] == FULL["operator"]["retry"]
    assert {name: dumped[name] for name in FULL["operator"]["tuning"]} == FULL["operator"]["tuning"]
    assert loaded.max_parallel_stages == 4
    assert loaded.max_parallel_rollouts == 2
    assert loaded.log_level == "DEBUG"
    assert loaded.image_pull_secrets == ["registry"]
    assert loaded.image_pull_policy == "Always"
    assert loaded.jobs_image == f"registry.local:5000/mirror/persona-pruner/jobs:{__version__}"
    assert loaded.vllm_image.startswith("registry.local:5000/mirror/vllm/vllm-openai:")
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    operator = container(manifests)
    assert operator["image"] == (
        "registry.local:5000/mirror/persona-pruner/operator@sha256:" + "0" * 64
    )
    assert operator["imagePullPolicy"] == "Always"


def test_store_credentials_and_ca_reach_the_operator(tmp_path):
    manifests = template(tmp_path, FULL)
    operator = container(manifests)
    assert operator["envFrom"] == [{"secretRef": {"name": "store", "optional": True}}]
    environment = {entry["name"]: entry.get("value") for entry in operator["env"]}
    assert environment["AWS_CA_BUNDLE"] == "/etc/persona/ca/ca.crt"
    mounts = {mount["name"]: mount["mountPath"] for mount in operator["volumeMounts"]}
    assert mounts["ca"] == "/etc/persona/ca"
    volumes = only(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (ca,) = [volume for volume in volumes if volume["name"] == "ca"]
    assert ca["configMap"] == {
        "name": "private-ca",
        "items": [{"key": "bundle.pem", "path": "ca.crt"}],
    }


def test_changed_settings_restart_the_operator(tmp_path):
    def checksum(values: Manifest) -> str:
        pod = only(template(tmp_path, values), "Deployment")["spec"]["template"]
        return pod["metadata"]["annotations"]["checksum/config"]

    assert checksum({}) == checksum({"operator": {"podLabels": {"a": "b"}}})
    assert checksum({}) != checksum({"env": {"A": "b"}})


def test_changed_profiles_restart_nothing_and_are_mounted_as_a_directory(tmp_path):
    manifests = template(tmp_path, {"profiles": {"mask": {"cpu": 4}}})
    assert only(manifests, "Deployment") == only(template(tmp_path), "Deployment")
    (mount,) = [m for m in container(manifests)["volumeMounts"] if m["name"] == "profiles"]
    # A file that is mounted with subPath would stay as it was when the pod started.
    assert "subPath" not in mount
    assert mount["mountPath"] + "/profiles.yaml" == PROFILES_PATH
    volumes = only(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (volume,) = [v for v in volumes if v["name"] == "profiles"]
    assert volume["configMap"] == {"name": "pruner-persona-pruner-profiles"}


def resources(role: Manifest) -> dict[str, set[str]]:
    return {
        f"{group}/{resource}": set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_cluster_wide_rights_are_these_and_no_more(tmp_path):
    manifests = template(tmp_path)
    everything = {"get", "list", "watch", "create", "patch", "delete"}
    assert resources(only(manifests, "ClusterRole", "persona-pruner")) == {
        "persona-pruner.io/personamodels": {"get", "list", "watch", "patch"},
        "persona-pruner.io/personamodels/status": {"get", "patch"},
        "persona-pruner.io/personarecipes": {"get", "list", "watch"},
        "batch/jobs": everything,
        "apps/deployments": everything,
        "/services": everything,
        "/configmaps": everything,
        "policy/poddisruptionbudgets": everything,
        "autoscaling/horizontalpodautoscalers": everything,
        "/pods": {"get", "list", "watch"},
        "/events": {"list", "watch", "create", "patch"},
        "/namespaces": {"list", "watch"},
        "apiextensions.k8s.io/customresourcedefinitions": {"get", "list", "watch"},
    }
    binding = only(manifests, "ClusterRoleBinding")
    assert binding["subjects"] == [
        {
            "kind": "ServiceAccount",
            "name": "pruner-persona-pruner",
            "namespace": "persona-system",
        }
    ]


def test_namespaced_rights_are_the_same_without_cluster_wide_ones(tmp_path):
    everywhere = template(tmp_path)
    # The Lease of an operator for all namespaces is in one of them.
    wide = resources(only(everywhere, "ClusterRole", "persona-pruner"))
    wide |= resources(only(everywhere, "Role", "persona-pruner"))
    manifests = template(tmp_path, {"namespaces": ["a", "b"], "rbac": {"aggregate": False}})
    assert [m for m in manifests if m["kind"].startswith("ClusterRole")] == []
    roles = [m for m in manifests if m["kind"] == "Role"]
    assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
    cluster_only = {"/namespaces", "apiextensions.k8s.io/customresourcedefinitions"}
    for role in roles:
        assert resources(role) == {k: v for k, v in wide.items() if k not in cluster_only}
    bindings = [m for m in manifests if m["kind"] == "RoleBinding"]
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["a", "b"]
    assert settings(manifests, tmp_path).namespaces == ["a", "b"]


@pytest.mark.parametrize("values", [{}, {"namespaces": ["a"]}])
def test_secrets_are_never_read(tmp_path, values):
    for manifest in template(tmp_path, values):
        for rule in manifest.get("rules", []):
            assert "secrets" not in rule["resources"]
            assert "*" not in rule["resources"] + rule["verbs"] + rule["apiGroups"]


def test_definitions_are_the_generated_ones_and_are_kept(tmp_path):
    rendered = [m for m in template(tmp_path) if m["kind"] == "CustomResourceDefinition"]
    for definition in rendered:
        assert definition["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert rendered == [custom_resource_definition(), recipe_definition()]


def test_parts_can_be_left_out(tmp_path):
    manifests = template(
        tmp_path,
        {
            "crds": {"install": False},
            "rbac": {"create": False, "aggregate": False},
            "serviceAccount": {"create": False, "name": "existing"},
            "metrics": {"enabled": False},
        },
    )
    assert sorted(m["kind"] for m in manifests) == ["ConfigMap", "ConfigMap", "Deployment"]
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "existing"
    assert [port["name"] for port in container(manifests)["ports"]] == ["health"]
    assert settings(manifests, tmp_path).metrics_port == 0


def test_service_monitor_finds_the_metrics_service(tmp_path):
    manifests = template(
        tmp_path, {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prom"}}}}
    )
    monitor = only(manifests, "ServiceMonitor")
    service = only(manifests, "Service")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    matched = monitor["spec"]["selector"]["matchLabels"]
    assert matched.items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_alerts_and_dashboards_are_installed_where_wanted(tmp_path):
    metrics = {
        "prometheusRule": {"enabled": True, "labels": {"release": "prom"}},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Personas"}},
    }
    manifests = template(tmp_path, {"metrics": metrics})
    rule = only(manifests, "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prom"
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    for path in (CHART / "files" / "dashboards").iterdir():
        found = only(manifests, "ConfigMap", f"-dashboard-{path.stem}")
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert found["metadata"]["annotations"] == {"grafana_folder": "Personas"}
        (text,) = found["data"].values()
        assert json.loads(text) == json.loads(path.read_text())
    labelled = template(
        tmp_path, {"metrics": {"dashboards": {"enabled": True, "labels": {"a": "b"}}}}
    )
    labels = only(labelled, "ConfigMap", "-dashboard-fleet")["metadata"]["labels"]
    assert (labels["a"], "grafana_dashboard" in labels) == ("b", False)
    assert not [m for m in template(tmp_path) if "dashboard" in m["metadata"]["name"]]


def test_quantities_may_be_integers(tmp_path):
    values = {"profiles": {"mask": {"cpu": 2, "memory": 8589934592, "scratch": "20Gi"}}}
    profile = settings(template(tmp_path, values), tmp_path).profiles["mask"]
    assert (profile.cpu, profile.memory, profile.scratch) == ("2", "8589934592", "20Gi")


def test_a_profile_can_be_removed(tmp_path):
    manifests = template(tmp_path, {"profiles": {"serving": None, "mask": None}})
    assert set(settings(manifests, tmp_path).profiles) == {"default"}


def values_below(values: Manifest, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value of values.yaml, parts as well as single values."""
    for name, value in values.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from values_below(value, (*path, name))


def nested(path: tuple[str, ...], value: Any) -> Manifest:
    for name in reversed(path):
        value = {name: value}
    return value


DEFAULTS: Manifest = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
# In these parts null removes an entry; other tests show it.
REMOVED_BY_NULL = [("profiles",), ("operator", "resources")]
SETTABLE = [
    path
    for path in values_below(DEFAULTS)
    if not any(path[: len(part)] == part != path for part in REMOVED_BY_NULL)
]


def rendered(tmp_path: Path, values: Manifest) -> str:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    result = helm("template", "pruner", str(CHART), "-f", str(file))
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def default_output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered(tmp_path_factory.mktemp("default"), {})


@pytest.mark.parametrize("path", SETTABLE, ids=".".join)
def test_null_or_empty_means_not_set(tmp_path, default_output, path):
    value = DEFAULTS
    for name in path:
        value = value[name]
    empty = type(value)() if isinstance(value, dict | list) else ""
    assert rendered(tmp_path, nested(path, None)) == default_output
    assert rendered(tmp_path, nested(path, empty)) == default_output


def test_null_removes_an_entry_of_the_operators_resources(tmp_path):
    def operators_resources(values: Manifest) -> Manifest:
        return container(template(tmp_path, {"operator": {"resources": values}}))["resources"]

    assert operators_resources({"limits": {"memory": None}}) == {
        "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "64Mi"},
        "limits": {"ephemeral-storage": "256Mi"},
    }
    assert operators_resources({"limits": None, "requests": None}) == {}


@pytest.mark.parametrize("unset", [None, ""])
def test_null_or_empty_fields_that_values_yaml_does_not_list(tmp_path, unset):
    default = settings(template(tmp_path), tmp_path)
    fields = FULL["profiles"]["mask"]
    empty = {
        name: unset if unset is None or not isinstance(value, dict | list) else type(value)()
        for name, value in fields.items()
    }
    values: Manifest = {
        "store": {"volume": {"claimName": None, "mountPath": unset}},
        "cache": {"claimName": unset},
        "profiles": {"default": {"gpus": unset}, "mask": empty},
        "operator": {
            "retry": dict.fromkeys(FULL["operator"]["retry"], unset),
            "tuning": dict.fromkeys(FULL["operator"]["tuning"], unset),
            "podLabels": {"team": None},
        },
    }
    loaded = settings(template(tmp_path, values), tmp_path)
    assert loaded.profiles.pop("mask") == Profile()
    assert loaded == default


def test_null_in_a_pod_template_reaches_the_operator(tmp_path):
    change = {"spec": {"securityContext": {"fsGroup": None}}}
    values = {"profiles": {"mask": {"podTemplate": change}}}
    assert settings(template(tmp_path, values), tmp_path).profiles["mask"].pod_template == change


def test_a_parent_chart_may_have_a_condition(tmp_path):
    assert template(tmp_path, {"enabled": True}) == template(tmp_path)


def test_an_umbrella_charts_registry_and_pull_secrets_win(tmp_path):
    manifests = template(
        tmp_path,
        {
            "global": {
                "imageRegistry": "mirror:5000",
                "imagePullSecrets": [{"name": "a"}, "b"],
                "storageClass": "read by other charts",
            },
            "image": {"registry": "own:5000", "pullSecrets": ["b", "c"]},
        },
    )
    loaded = settings(manifests, tmp_path)
    images = [loaded.jobs_image, loaded.vllm_image, container(manifests)["image"]]
    assert [image.partition("/")[0] for image in images] == ["mirror:5000"] * 3
    assert loaded.image_pull_secrets == ["b", "c", "a"]
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "b"}, {"name": "c"}, {"name": "a"}]


def test_common_labels_are_on_every_object_and_in_no_selector(tmp_path):
    values = {
        "commonLabels": {"team": "voices", "app.kubernetes.io/name": "other"},
        "networkPolicy": {"enabled": True},
        "metrics": {"serviceMonitor": {"enabled": True}},
    }
    manifests = [m for m in template(tmp_path, values) if m["kind"] != "CustomResourceDefinition"]
    for manifest in manifests:
        labels = manifest["metadata"]["labels"]
        assert (labels["team"], labels["app.kubernetes.io/name"]) == ("voices", "persona-pruner")
    deployment = only(manifests, "Deployment")["spec"]
    assert deployment["template"]["metadata"]["labels"]["team"] == "voices"
    assert "team" not in deployment["selector"]["matchLabels"]
    assert "team" not in only(manifests, "Service")["spec"]["selector"]


def test_further_objects_are_rendered(tmp_path):
    name = "{{ .Release.Name }}-extra"
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: text}\nstringData: {a: b}\n"
    extra = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}, text]
    manifests = template(tmp_path, {"extraObjects": extra})
    assert only(manifests, "ConfigMap", "pruner-extra")
    assert only(manifests, "Secret")["stringData"] == {"a": "b"}


def test_environment_may_be_numbers_and_booleans(tmp_path):
    env = {"A": 1, "B": True, "C": "text", "D": 2.5, "E": 1000000, "F": None}
    loaded = settings(template(tmp_path, {"env": env}), tmp_path)
    assert loaded.env == {"A": "1", "B": "true", "C": "text", "D": "2.5", "E": "1000000"}


def test_the_network_policy_lets_through_what_the_operator_serves(tmp_path):
    scraper = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    values = {"networkPolicy": {"enabled": True, "metricsFrom": scraper}}
    manifests = template(tmp_path, values)
    policy = only(manifests, "NetworkPolicy")["spec"]
    pod = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= pod.items()
    served = {port["name"] for port in container(manifests)["ports"]}
    allowed = {
        port["port"]: rule.get("from") for rule in policy["ingress"] for port in rule["ports"]
    }
    assert allowed == {"health": None, "metrics": scraper}
    assert set(allowed) == served
    assert policy["egress"] == [{}]
    store = [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]
    values = {"networkPolicy": {"enabled": True, "egress": store}, "metrics": {"enabled": False}}
    policy = only(template(tmp_path, values), "NetworkPolicy")["spec"]
    assert policy["egress"] == store
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["health"]


def test_an_older_kubernetes_is_refused():
    result = helm("template", "pruner", str(CHART), "--kube-version", "1.30.9")
    assert result.returncode != 0
    assert "kubeVersion" in result.stderr


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"stores": {"uri": "s3://b"}}, "stores"),
        ({"store": {"url": "s3://b"}}, "url"),
        ({"store": {"uri": "bucket/prefix"}}, "uri"),
        ({"store": {"endpoint": "minio:9000"}}, "endpoint"),
        ({"store": {"addressingStyle": "path"}}, "addressingStyle"),
        ({"store": {"credentialsSecret": "My Secret"}}, "credentialsSecret"),
        ({"store": {"volume": {"claimName": "a", "hostPath": "/b"}}}, "volume"),
        ({"namespaces": "personas"}, "namespaces"),
        ({"namespaces": ["Personas"]}, "namespaces"),
        ({"profiles": {"mask": {"gpu": 1}}}, "gpu"),
        ({"profiles": {"mask": {"gpus": "1"}}}, "gpus"),
        ({"profiles": {"mask": {"cpu": -4}}}, "cpu"),
        ({"profiles": {"mask": {"cpu": True}}}, "cpu"),
        ({"profiles": {"mask": {"memory": "48 GB"}}}, "memory"),
        ({"profiles": {"Mask": {}}}, "Mask"),
        ({"profiles": {"mask": {"args": ["--trust-remote-code"]}}}, "args"),
        ({"profiles": {"mask": {"env": [{"name": "A", "valueFrom": {}}]}}}, "valueFrom"),
        ({"profiles": {"mask": {"podTemplate": {"containers": []}}}}, "containers"),
        ({"cache": {"claimName": "a", "hostPath": "/b"}}, "cache"),
        ({"env": {"A": [1]}}, "env"),
        ({"global": {"imageRegistry": "https://mirror"}}, "imageRegistry"),
        ({"commonLabels": {"team": 1}}, "team"),
        ({"networkPolicy": {"from": []}}, "from"),
        ({"securityContext": "None"}, "securityContext"),
        ({"image": {"pullSecrets": [{"name": "registry"}]}}, "pullSecrets"),
        ({"image": {"pullPolicy": "always"}}, "pullPolicy"),
        ({"operator": {"image": {"digest": "latest"}}}, "digest"),
        ({"operator": {"replicas": "two"}}, "replicas"),
        ({"operator": {"retry": {"maxRetries": 21}}}, "maxRetries"),
        ({"operator": {"tuning": {"interval": 1}}}, "interval"),
        ({"metrics": {"port": 80}}, "port"),
    ],
)
def test_mistakes_in_values_are_refused(tmp_path, values, field):
    assert field in refusal(tmp_path, values)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["WARNING: store.uri is not set", "apply -f examples/persona.yaml"]),
        (
            ["--set", "store.uri=s3://b/p,store.credentialsSecret=s3,namespaces={team-a}"],
            ["create secret generic s3", "-n team-a apply -f examples/persona.yaml"],
        ),
    ],
)
def test_notes_say_the_next_command(tmp_path, arguments, expected):
    # `helm template` leaves the notes out: render them as a field of another template.
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    notes = (chart / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    wrapped = (
        '{{- define "notes" }}' + notes + '{{ end -}}\nnotes: {{ include "notes" . | quote }}\n'
    )
    (chart / "templates" / "notes.yaml").write_text(wrapped, encoding="utf-8")
    result = helm("template", "pruner", str(chart), "-s", "templates/notes.yaml", *arguments)
    assert result.returncode == 0, result.stderr
    notes = yaml.safe_load(result.stdout)["notes"]
    for text in expected:
        assert text in notes
    assert ("WARNING" in notes) == (not arguments)
