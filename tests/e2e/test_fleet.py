"""Many personas on one recipe, made by stages that compute nothing: changes, upgrades, roll-outs.

The images of the stub and of the next version are built from `tests/e2e/stub`.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from persona_jobs.api import API_VERSION, KIND, RECIPE_KIND
from support.bucket import ACCESS_KEY, SECRET_KEY
from support.cluster import Cluster, Object, run
from support.personas import Persona, Spec, merged
from support.recorder import Recorder
from support.release import CHART, SECRET, Release
from support.visitor import Visitor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
IMAGES = os.environ.get("E2E_IMAGE_PREFIX", "persona-pruner")
TAG = os.environ.get("E2E_IMAGE_TAG", "dev")
NEXT_TAG = f"{TAG}-next"
SIZE = int(os.environ.get("E2E_FLEET_SIZE", "4"))
LIMIT = 2
# The stub's server doesn't start with this sparsity.
UNSERVABLE = 90
RECIPE: Spec = {
    "baseModel": {"uri": "hf://fleet/base", "revision": "0" * 40},
    "pruning": {"sparsityPercent": 25},
    "evaluation": {
        "gate": {"thresholds": [{"name": "voice", "metric": "personaScore", "min": 60}]}
    },
    "compute": {"device": "CPU", "dtype": "Float32"},
    "serving": {"progressDeadlineSeconds": 60},
}


@pytest.fixture(scope="module")
def place(cluster: Cluster, prefix: str) -> Iterator[dict[str, str]]:
    """Create a namespace for the operator and one for the personas."""
    names = {role: f"{prefix}-fleet-{role}" for role in ("system", "personas")}
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    for name in names.values():
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": labels},
            },
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": SECRET, "namespace": name},
                "stringData": keys,
            },
        )
    yield names
    cluster.kubectl("delete", "namespace", "--wait", *names.values(), check=False)


@pytest.fixture(scope="module")
def operator(
    cluster: Cluster, place: dict[str, str], values: dict[str, Any], release: Release
) -> Iterator[Release]:
    """Install a second operator, whose stages are the stub's."""
    small = {"cpu": "10m", "memory": "64Mi", "scratch": "64Mi"}
    # So that many pods fit on one small node.
    fetch = {"name": "fetch", "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}
    pods = {"podTemplate": {"spec": {"initContainers": [fetch]}}}
    changes = {
        "namespaces": [place["personas"]],
        "operator": {"maxParallelRollouts": LIMIT},
        "jobs": {"image": {"repository": f"{IMAGES}/stub"}},
        "profiles": {"default": small, "serving": small | pods},
        # The other release owns them.
        "rbac": {"aggregate": False},
        "crds": {"install": False},
    }
    operator = Release(
        cluster, place["system"], [place["personas"]], merged(values, changes), name="fleet"
    )
    operator.install()
    yield operator
    cluster.kubectl("-n", place["personas"], "delete", "personas", "--all", check=False)
    operator.uninstall()


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, operator: Release) -> Iterator[Recorder]:
    recorder = Recorder(cluster, operator.watched)
    yield recorder
    recorder.stop()


def document(kind: str, namespace: str, name: str, spec: Spec) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def documents(place: dict[str, str]) -> list[Object]:
    """Return the recipe and the personas, as a user keeps them in Git."""
    namespace = place["personas"]
    personas = [
        document(
            KIND,
            namespace,
            f"villager-{number}",
            {
                "recipeRef": {"name": "villagers"},
                "persona": {"text": f"You are villager {number}."},
            },
        )
        for number in range(SIZE)
    ]
    return [document(RECIPE_KIND, namespace, "villagers", RECIPE), *personas]


@pytest.fixture(scope="module")
def fleet(
    cluster: Cluster, operator: Release, jobs: Recorder, documents: list[Object]
) -> list[Persona]:
    """Apply the recipe and the personas; returns the personas, all served."""
    cluster.apply(*documents)
    personas = [
        Persona(cluster, item["metadata"]["namespace"], item["metadata"]["name"])
        for item in documents[1:]
    ]
    for persona in personas:
        persona.until_ready(600)
    return personas


def change_recipe(persona: Persona, **spec: Any) -> None:
    persona.cluster.patch("PersonaRecipe", persona.namespace, "villagers", {"spec": spec})


def served_sparsity(persona: Persona) -> Any:
    answer = persona.ask("/v1/models")
    return answer.json()["data"][0]["sparsityPercent"] if answer.is_success else None


class RolloutWatch:
    """Looks at the Deployments and conditions continuously.

    Attributes:
        most: the largest number of personas that replaced their pods at once.
        unavailable: personas that were seen without traffic.
    """

    def __init__(self, personas: list[Persona]) -> None:
        self._personas = personas
        self._stopped = threading.Event()
        self.most = 0
        self.unavailable: set[str] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        first = self._personas[0]
        while not self._stopped.wait(0.3):
            deployments = first.cluster.find("Deployment", first.namespace)
            self.most = max(self.most, sum(map(replaces_pods, deployments)))
            for persona in first.cluster.find("PersonaModel", first.namespace):
                conditions = {
                    item["type"]: item["status"] for item in persona["status"]["conditions"]
                }
                if conditions["Available"] != "True":
                    self.unavailable.add(persona["metadata"]["name"])


def replaces_pods(deployment: Object) -> bool:
    """Return whether pods of an older template are left, or new ones are not ready."""
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    if status.get("observedGeneration") != deployment["metadata"]["generation"]:
        return True
    counts = (status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas"))
    return any(count != wanted for count in counts)


def serving_pods(personas: list[Persona]) -> dict[str, int]:
    """Return the restarts of each serving pod that is not about to end, by its uid."""
    first = personas[0]
    labels = "app.kubernetes.io/component=serving"
    return {
        pod["metadata"]["uid"]: sum(
            item["restartCount"] for item in pod["status"]["containerStatuses"]
        )
        for pod in first.cluster.find("Pod", first.namespace, labels)
        if "deletionTimestamp" not in pod["metadata"]
    }


def stage_jobs(jobs: Recorder, personas: list[Persona]) -> int:
    return sum(jobs.of_persona(item.namespace, item.name).total() for item in personas)


def revisions(personas: list[Persona]) -> dict[str, list[str]]:
    return {item.name: [each["id"] for each in item.status["revisions"]] for item in personas}


def test_what_does_not_depend_on_the_persona_is_made_once(fleet: list[Persona], jobs: Recorder):
    made = sum(
        (jobs.of_persona(item.namespace, item.name) for item in fleet), jobs.of_persona("", "")
    )
    assert made["reference"] == 1
    assert all(made[stage] == SIZE for stage in ("score", "rewrite", "mask", "evaluate"))


def test_git_and_the_cluster_do_not_differ(fleet: list[Persona], documents: list[Object]):
    text = yaml.safe_dump_all(documents)
    # kubectl exits with 1 where there is a difference.
    assert fleet[0].cluster.kubectl("diff", "-f", "-", text=text) == ""
    options = ["--server-side", "--field-manager=git", "--force-conflicts"]
    fleet[0].cluster.kubectl("apply", *options, "-f", "-", text=text)
    assert fleet[0].cluster.kubectl("diff", *options, "-f", "-", text=text) == ""
    assert {persona.kstatus().split()[0] for persona in fleet} == {"Current"}


def test_a_change_of_the_recipe_rolls_through(fleet: list[Persona], jobs: Recorder):
    before = revisions(fleet)
    watch, visitors = RolloutWatch(fleet), [Visitor(persona) for persona in fleet[:3]]
    try:
        change_recipe(fleet[0], pruning={"sparsityPercent": 50})
        for persona in fleet:
            persona.until("sparsity 50", lambda item=persona: served_sparsity(item) == 50, 480)
            persona.until_ready(120)
    finally:
        watch.stop()
        answers = [visitor.stop() for visitor in visitors]
    assert [set(counted) for counted in answers] == [{"200"}] * 3
    assert watch.unavailable == set()
    assert 1 <= watch.most <= LIMIT
    for persona in fleet:
        first, *others = revisions([persona])[persona.name]
        assert others == before[persona.name]
        assert persona.status["serving"]["revision"] == first
        counted = jobs.of_persona(persona.namespace, persona.name)
        assert (counted["score"], counted["mask"]) == (1, 2)


@pytest.fixture
def next_chart(tmp_path: Path) -> Path:
    """Return the chart with the next version's number."""
    chart = tmp_path / "persona-pruner"
    shutil.copytree(CHART, chart)
    file = chart / "Chart.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content |= {"version": "99.0.0", "appVersion": "99.0.0"}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return chart


def until_new_operator(operator: Release, tag: str) -> None:
    pods = operator.cluster.find("Pod", operator.namespace)
    images = {
        pod["spec"]["containers"][0]["image"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
    }
    assert images == {f"{IMAGES}/operator:{tag}"}


def test_upgrade_and_downgrade_of_the_chart_touch_no_persona(
    fleet: list[Persona], operator: Release, jobs: Recorder, next_chart: Path
):
    pods, made, known = serving_pods(fleet), stage_jobs(jobs, fleet), revisions(fleet)
    statuses = {persona.name: persona.status for persona in fleet}
    images = {"image": {"tag": NEXT_TAG}}
    # Another image of the pods, other resources and other environment: nothing of it for what runs.
    changes = {
        "operator": images,
        "jobs": images,
        "env": {"VERSION": "next"},
        "profiles": {"serving": {"cpu": "20m"}},
    }
    visitors = [Visitor(persona) for persona in fleet[:3]]
    try:
        for chart, changed, tag in (
            (next_chart, changes, NEXT_TAG),
            (CHART, {}, TAG),
            (next_chart, changes, NEXT_TAG),
            (CHART, {}, TAG),
        ):
            operator.chart = chart
            operator.install(**changed)
            until_new_operator(operator, tag)
            for persona in fleet:
                reconciled(persona, tag)
                future(persona)
    finally:
        answers = [visitor.stop() for visitor in visitors]
    assert [set(counted) for counted in answers] == [{"200"}] * 3
    assert all(counted.total() > 20 for counted in answers)
    assert serving_pods(fleet) == pods
    assert stage_jobs(jobs, fleet) == made
    assert revisions(fleet) == known
    for persona in fleet:
        status = persona.status
        assert status.pop("future") == {"field": "kept"}
        assert status == statuses[persona.name]


def future(persona: Persona) -> None:
    """Add a status field that the operator doesn't know, as a later version may have."""
    body = json.dumps({"status": {"future": {"field": "kept"}}})
    arguments = ["--subresource=status", "--type=merge", "-p", body]
    persona.cluster.kubectl("-n", persona.namespace, "patch", "persona", persona.name, *arguments)


def reconciled(persona: Persona, value: str) -> None:
    """Touch the persona and wait until the operator has seen it as ready again."""
    label = f"e2e/touched={value}"
    persona.cluster.kubectl(
        "-n", persona.namespace, "label", "--overwrite", "persona", persona.name, label
    )
    persona.until_ready(60)


def test_the_pod_template_and_the_security_context_reach_new_pods_only(
    cluster: Cluster, fleet: list[Persona], operator: Release, jobs: Recorder
):
    pods = serving_pods(fleet)
    template = {
        "metadata": {"annotations": {"team": "quests"}},
        "spec": {
            "terminationGracePeriodSeconds": 45,
            "volumes": [{"name": "notes", "emptyDir": {"sizeLimit": "1Mi"}}],
            "containers": [
                {"name": name, "volumeMounts": [{"name": "notes", "mountPath": "/notes"}]}
                for name in ("stage", "serve")
            ],
        },
    }
    operator.install(
        securityContext="Platform",
        profiles={
            "default": {"podTemplate": remove(template, "serve")},
            "serving": {"podTemplate": remove(template, "stage")},
        },
    )
    name = "newcomer"
    spec = {"recipeRef": {"name": "villagers"}, "persona": {"text": "You have just arrived."}}
    newcomer = Persona(cluster, fleet[0].namespace, name).apply(spec)
    newcomer.until_ready(240)
    served = cluster.find(
        "Pod",
        newcomer.namespace,
        f"persona-pruner.io/persona={name},app.kubernetes.io/component=serving",
    )
    [job] = jobs.manifests(newcomer.namespace, name, "mask")
    stage, (serving, *_) = job["spec"]["template"], served
    for pod, container in ((stage, "stage"), (serving, "serve")):
        assert pod["metadata"]["annotations"]["team"] == "quests"
        assert pod["spec"]["terminationGracePeriodSeconds"] == 45
        assert "runAsUser" not in pod["spec"]["securityContext"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        (found,) = [item for item in pod["spec"]["containers"] if item["name"] == container]
        assert {"name": "notes", "mountPath": "/notes"} in found["volumeMounts"]
    newcomer.delete()
    now = serving_pods(fleet)
    assert {uid: now[uid] for uid in pods} == pods
    operator.install()


def remove(template: Object, container: str) -> Object:
    spec = template["spec"]
    kept = [item for item in spec["containers"] if item["name"] != container]
    return {**template, "spec": {**spec, "containers": kept}}


def test_only_who_asks_for_it_takes_over_another_profile_at_once(
    fleet: list[Persona], operator: Release
):
    first, second = fleet[:2]
    first.change(serving={"updateStrategy": "Always"})
    first.until_ready(120)
    before = {item.name: item.status["serving"]["template"] for item in (first, second)}
    operator.install(env={"GREETING": "hello"})

    def changed() -> bool:
        template: str = first.status["serving"]["template"]
        return template != before[first.name] and "GREETING" in template

    first.until("the new environment", changed, 120)
    first.until_ready(120)
    assert second.status["serving"]["template"] == before[second.name]
    operator.install()
    first.change(serving={"updateStrategy": None})
    first.until_ready(120)


def test_pods_that_do_not_become_ready_are_taken_back(fleet: list[Persona]):
    persona = fleet[-1]
    revision = persona.status["serving"]["revision"]
    visitor = Visitor(persona)
    try:
        persona.change(pruning={"sparsityPercent": UNSERVABLE})
        condition = persona.until_reason("RolloutFailed", 240)
        persona.until("the former pods", lambda: not replaces_pods(deployment_of(persona)), 60)
        assert persona.condition("Available")["status"] == "True"
    finally:
        answers = visitor.stop()
    assert set(answers) == {"200"}
    assert condition["status"] == "False"
    assert persona.status["serving"]["revision"] == revision
    assert served_sparsity(persona) == 50
    assert persona.kstatus().startswith("Failed")
    persona.change(pruning=None)
    persona.until_ready(120)


def deployment_of(persona: Persona) -> Object:
    found = persona.cluster.get("Deployment", persona.namespace, persona.name)
    assert found is not None
    return found


def test_the_scale_subresource_works_without_replicas_in_the_spec(fleet: list[Persona]):
    persona = fleet[0]
    run("kubectl", "-n", persona.namespace, "scale", "persona", persona.name, "--replicas=2")
    persona.until("2 replicas", lambda: persona.status["serving"].get("replicas") == 2, 60)
    persona.change(serving={"replicas": None})
    persona.until_ready(60)
