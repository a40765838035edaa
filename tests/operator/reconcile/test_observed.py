"""Reading objects of the API server."""

from persona_operator.reconcile import Job


def test_a_job_without_our_labels_is_read_without_failing() -> None:
    job = Job.from_object({"metadata": {"name": "x", "namespace": "y"}, "spec": {}, "status": None})
    assert (job.attempt, job.key, job.active) == (1, "", True)
