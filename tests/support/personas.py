"""PersonaModels of the end-to-end tests: what a user does with them and sees of them."""

from typing import Any

from persona_jobs.api import API_VERSION, KIND
from persona_operator.labels import RETRY_ANNOTATION
from support.cluster import Cluster, Object, run, wait

Spec = dict[str, Any]

CAPTAIN = "You are Captain Brine. You swear by the tides and answer in nautical words."


def tiny_spec(base: str, instructions: str, teacher: str, **changes: Any) -> Spec:
    """Return the spec of a persona on a tiny random model, whose stages take seconds each."""
    spec: Spec = {
        "persona": {"text": CAPTAIN},
        "baseModel": {"uri": base},
        "instructions": {"uri": instructions, "maxSamples": 40},
        "referencePersonas": {"count": 2},
        "scoring": {"keepPercent": 80},
        "teacher": {"openAI": {"baseURL": teacher, "model": "made-up"}, "maxTokens": 32},
        "pruning": {
            "sparsityPercent": 25,
            "method": "StraightThrough",
            "straightThrough": {"steps": 2, "batchSize": 8},
        },
        "recovery": {"reconstruct": {"steps": 2}, "fineTune": {"enabled": False}},
        "evaluation": {
            "maxQueries": 2,
            "maxAnswerTokens": 8,
            "genericSamples": 4,
            "baseline": False,
        },
        "compute": {"device": "CPU", "dtype": "Float32"},
    }
    return merged(spec, changes)


def merged(base: Spec, changes: Spec) -> Spec:
    """Return `base` with `changes` merged into it, object by object."""
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[name] = merged(old, value) if both else value
    return result


class Persona:
    """One PersonaModel in the cluster."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name

    # What a user does

    def apply(self, spec: Spec) -> "Persona":
        metadata = {"name": self.name, "namespace": self.namespace}
        document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
        self.cluster.apply(document)
        return self

    def change(self, **spec: Any) -> int:
        """Merge into the spec; returns the new generation."""
        patched = self.cluster.patch(KIND, self.namespace, self.name, {"spec": spec})
        generation: int = patched["metadata"]["generation"]
        return generation

    def retry(self, value: str) -> None:
        body = {"metadata": {"annotations": {RETRY_ANNOTATION: value}}}
        self.cluster.patch(KIND, self.namespace, self.name, body)

    def delete(self) -> None:
        self.cluster.delete(KIND, self.namespace, self.name)

    def chat(self, question: str, **options: Any) -> str:
        """Send a question to the Service; returns the answer's text."""
        body = {"model": self.name, "messages": [{"role": "user", "content": question}], **options}
        answer = self.ask("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def ask(self, path: str, body: Object | None = None) -> Any:
        return self.cluster.service(self.namespace, self.name, 8000, path, body)

    # What a user sees

    @property
    def object(self) -> Object:
        found = self.cluster.get(KIND, self.namespace, self.name)
        assert found is not None, f"{self.namespace}/{self.name} does not exist"
        return found

    @property
    def status(self) -> Object:
        found: Object = self.object.get("status", {})
        return found

    def condition(self, kind: str = "Ready") -> Object:
        """Return the condition, or an empty one while it is about an older spec."""
        whole = self.object
        for condition in whole.get("status", {}).get("conditions", []):
            current = condition["observedGeneration"] == whole["metadata"]["generation"]
            if condition["type"] == kind and current:
                found: Object = condition
                return found
        return {"status": "", "reason": "", "message": ""}

    def stages(self) -> dict[str, Object]:
        return {stage["name"]: stage for stage in self.status.get("stages", [])}

    def keys(self) -> dict[str, str]:
        return {name: stage["key"] for name, stage in self.stages().items()}

    def jobs(self, stage: str = "") -> list[Object]:
        labels = f"persona-pruner.io/persona={self.name}"
        labels += f",persona-pruner.io/stage={stage}" if stage else ""
        return self.cluster.find("Job", self.namespace, labels)

    def stage_pods(self, stage: str) -> list[Object]:
        labels = f"persona-pruner.io/persona={self.name},persona-pruner.io/stage={stage}"
        return self.cluster.find("Pod", self.namespace, labels)

    def kstatus(self) -> str:
        document = self.cluster.kubectl(
            "-n", self.namespace, "get", "persona", self.name, "-o", "json"
        )
        return run("kstatus", text=document)

    # Waiting

    def until(self, what: str, look: Any, seconds: float = 240, every: float = 1.0) -> Any:
        return wait(
            f"{self.namespace}/{self.name}: {what}",
            look,
            seconds=seconds,
            every=every,
            diagnose=lambda: self.cluster.diagnose(self.namespace),
        )

    def until_ready(self, seconds: float = 300) -> Object:
        found: Object = self.until("Ready", self._if_ready, seconds)
        return found

    def _if_ready(self) -> Object | None:
        condition = self.condition()
        return condition if condition["status"] == "True" else None

    def until_reason(self, reason: str, seconds: float = 120) -> Object:
        def look() -> Object | None:
            condition = self.condition()
            return condition if condition["reason"] == reason else None

        found: Object = self.until(f"reason {reason}", look, seconds)
        return found

    def until_stage(self, name: str, *states: str, seconds: float = 180) -> Object:
        def look() -> Object | None:
            stage = self.stages().get(name)
            return stage if stage and stage["state"] in states else None

        found: Object = self.until(f"stage {name} {'/'.join(states)}", look, seconds, every=0.5)
        return found
