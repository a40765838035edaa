"""Reading the administrator's settings."""

from pathlib import Path

import pytest

from persona_jobs.errors import InputError
from persona_operator.settings import Profile, Settings


def test_settings_are_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        """
jobsImage: registry.example/jobs:1
store: {uri: s3://models, credentialsSecret: store, caConfigMap: {name: ca}}
profiles:
  gpu: {gpus: 1, nodeSelector: {pool: gpu}, tolerations: [{key: gpu, operator: Exists}]}
retry: {maxRetries: 1}
namespaces: [a, b]
"""
    )
    loaded = Settings.load(path)
    assert loaded.profiles["gpu"].gpus == 1
    assert loaded.store.ca_config_map is not None
    assert loaded.store.ca_config_map.key == "ca.crt"
    assert (loaded.retry.max_retries, loaded.namespaces) == (1, ["a", "b"])


def test_quantities_of_profiles_may_be_integers() -> None:
    profile = Profile.model_validate({"cpu": 2, "memory": 8.589934592e9, "scratch": "20Gi"})
    assert (profile.cpu, profile.memory, profile.scratch) == ("2", "8589934592", "20Gi")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    assert Settings.load(path) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobImage: x", "jobImage"),
        ("profiles: {gpu: {gpus: -1}}", "profiles.gpu.gpus"),
        ("profiles: {gpu: {cpu: two}}", "profiles.gpu.cpu: .*Kubernetes quantity"),
        ("profiles: {gpu: {cpu: true}}", "profiles.gpu.cpu"),
        ("profiles: {gpu: {podTemplate: {containers: []}}}", "containers is not supported"),
        ("profiles: {gpu: {podTemplate: {metadata: {name: a}}}}", "metadata.name is not supported"),
        ("profiles: {gpu: {podTemplate: {spec: {volumes: [{}]}}}}", "spec.volumes needs a name"),
        (
            "profiles: {gpu: {podTemplate: {spec: {containers: [{name: fetch}]}}}}",
            "can't hold the container fetch",
        ),
        (
            "profiles: {gpu: {podTemplate: {spec: {containers: [{name: a, env: [{}]}]}}}}",
            "env needs a name",
        ),
        (
            "profiles: {gpu: {args: [--trust_remote_code=true]}}",
            "must not enable trust_remote_code",
        ),
        (
            "profiles: {gpu: {podTemplate: {spec: {containers: [{name: a, args: [--trust]}]}}}}",
            "must not enable trust_remote_code",
        ),
        ("profiles: {gpu: {env: [{name: A, valueFrom: {}}]}}", "profiles.gpu.env"),
        ("cache: {claimName: a, hostPath: /b}", "exactly one"),
        ("[", "not valid YAML"),
    ],
)
def test_an_error_in_the_settings_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Settings.load(path)


def test_a_missing_settings_file_is_named_with_its_variable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PERSONA_OPERATOR_CONFIG"):
        Settings.load(tmp_path / "none.yaml")
