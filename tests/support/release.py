"""The chart, installed by helm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.cluster import Cluster, run
from support.personas import merged

CHART = Path(__file__).parents[2] / "charts" / "persona-pruner"
RELEASE = "persona-pruner"
SECRET = "persona-store"


@dataclass
class Release:
    """The installed chart.

    Attributes:
        namespace: namespace of the operator.
        watched: namespaces whose PersonaModels it reconciles.
        name: name of the release.
        chart: the chart's folder.
    """

    cluster: Cluster
    namespace: str
    watched: list[str]
    values: dict[str, Any]
    name: str = RELEASE
    chart: Path = CHART

    def install(self, **changes: Any) -> None:
        """Install the chart, or upgrade it with other values."""
        values = yaml.safe_dump(merged(self.values, changes))
        command = ["helm", "upgrade", "--install", self.name, str(self.chart), "-n", self.namespace]
        command += ["--take-ownership", "--wait", "--timeout", "120s", "-f", "-"]
        run(*command, text=values)

    def uninstall(self) -> None:
        run("helm", "uninstall", self.name, "-n", self.namespace, "--wait", check=False)

    def operator_pods(self) -> list[str]:
        labels = f"app.kubernetes.io/component=operator,app.kubernetes.io/instance={self.name}"
        return [
            pod["metadata"]["name"]
            for pod in self.cluster.find("Pod", self.namespace, labels)
            if "deletionTimestamp" not in pod["metadata"]
        ]

    def log(self) -> str:
        deployment = f"deployment/{self.name}"
        return self.cluster.kubectl(
            "-n", self.namespace, "logs", deployment, "--tail=-1", check=False
        )

    def metrics(self) -> list[str]:
        """Return the lines of the operator's /metrics."""
        answer = self.cluster.service(self.namespace, f"{self.name}-metrics", 9090, "/metrics")
        return answer.raise_for_status().text.splitlines()
