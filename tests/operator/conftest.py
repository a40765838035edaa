"""Fixtures of the operator's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.fake_api_server import FakeApiServer
from support.fake_cluster import FakeCluster
from support.running_operator import Operator


@pytest.fixture
async def operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Operator]:
    server = FakeApiServer(FakeCluster())
    await server.start()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: fake
contexts: [{{name: fake, context: {{cluster: fake, user: fake}}}}]
clusters: [{{name: fake, cluster: {{server: "{server.url}"}}}}]
users: [{{name: fake, user: {{}}}}]
"""
    )
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig)
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    yield Operator(server)
    await server.stop()
