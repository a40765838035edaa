"""The stage process: `python -m persona_jobs STAGE`, in a container or on a laptop.

Reads PERSONA_MANIFEST (the resolved PersonaModel as JSON or YAML), PERSONA_STORE (URL of the
artifact store; S3 settings and credentials come from the standard AWS_* variables),
PERSONA_SCRATCH (temporary files) and PERSONA_CACHE (base models). Exit codes: 0 done; 2 the input
is wrong, don't retry; 3 out of memory; 143 stopped, resumes when started again; 1 may be retried.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from .api import STAGE_NAMES, load_resource
from .pipeline.number_format import with_number_format
from .pipeline.process import (
    LogProgress,
    ProcessReport,
    configure_logging,
    end_overdue,
    required_setting,
    run_process,
    stop_on_signals,
)
from .pipeline.references import add_references, owner_of, planned_keys
from .pipeline.revisions import record_revision
from .pipeline.runner import planned_stage, run_stage
from .store import S3Options, StageArtifacts, open_store

# Progress is logged by the stages themselves.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return the process's exit code."""
    options = _parser().parse_args(arguments)
    configure_logging()
    return run_process(ProcessReport(options.stage), lambda report: _run(options, report))


def _run(options: argparse.Namespace, report: ProcessReport) -> None:
    stop = stop_on_signals(on_overdue=lambda: end_overdue(report))
    from .models.compute import has_cuda

    resource = load_resource(Path(required_setting(options.manifest, "PERSONA_MANIFEST")))
    spec = with_number_format(resource.spec, has_cuda)
    resource = resource.model_copy(update={"spec": spec})
    planned = planned_stage(spec, options.stage)
    report.key = planned.key
    store = open_store(
        required_setting(options.store, "PERSONA_STORE"), S3Options.from_environment(os.environ)
    )
    add_references(store, owner_of(resource, os.environ), planned_keys(spec))
    scratch = Path(os.environ.get("PERSONA_SCRATCH") or tempfile.gettempdir())
    cache = Path(os.environ.get("PERSONA_CACHE") or scratch / "cache")
    done = run_stage(
        spec,
        planned,
        StageArtifacts(store, cache / "store"),
        cache=cache,
        scratch_root=scratch,
        progress=LogProgress(options.stage),
        stop=stop,
    )
    if options.stage == "evaluate":
        record_revision(store, resource)
    report.outcome, report.results = done.outcome, done.results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m persona_jobs", description=__doc__)
    parser.add_argument("stage", choices=STAGE_NAMES)
    parser.add_argument("--manifest", default=os.environ.get("PERSONA_MANIFEST"))
    parser.add_argument("--store", default=os.environ.get("PERSONA_STORE"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
