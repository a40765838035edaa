"""The stage process: `python -m persona_jobs STAGE`, in a container or on a laptop.

Reads PERSONA_MANIFEST (the resolved PersonaModel as JSON or YAML), PERSONA_STORE (URL of the
artifact store; S3 settings and credentials come from the standard AWS_* variables),
PERSONA_SCRATCH (temporary files) and PERSONA_CACHE (base models). Exit codes: 0 done; 2 the input
is wrong, don't retry; 3 out of memory; 143 stopped, start again to go on; 1 may be retried.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from .api import STAGE_NAMES, load_resource
from .errors import InputError, PersonaError
from .pipeline.logs import LogProgress, stage_logger
from .pipeline.results import StageFailure, TerminationMessage
from .pipeline.revisions import record_revision
from .pipeline.runner import planned_stage, run_stage
from .pipeline.signals import stop_on_signals
from .pipeline.termination import failure_of, write_termination_message
from .store import S3Options, StageArtifacts, open_store

# Progress is logged by the stages themselves.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return the process's exit code."""
    options = _parser().parse_args(arguments)
    logger = stage_logger()
    started = time.monotonic()
    key = ""
    try:
        manifest = load_resource(Path(_required(options.manifest, "PERSONA_MANIFEST")))
        planned = planned_stage(manifest.spec, options.stage)
        key = planned.key
        store = open_store(
            _required(options.store, "PERSONA_STORE"), S3Options.from_environment(os.environ)
        )
        scratch = Path(os.environ.get("PERSONA_SCRATCH") or tempfile.gettempdir())
        cache = Path(os.environ.get("PERSONA_CACHE") or scratch / "cache")
        artifacts = StageArtifacts(store, cache / "store")
        report = run_stage(
            manifest.spec,
            planned,
            artifacts,
            cache=cache,
            scratch_root=scratch,
            progress=LogProgress(logger, options.stage),
            stop=stop_on_signals(),
            hf_token=os.environ.get("HF_TOKEN"),
        )
        if options.stage == STAGE_NAMES[-1]:
            record_revision(store, manifest)
    except PersonaError as error:
        logger.error("%s: %s", type(error).__name__, error)  # noqa: TRY400 -- expected: no trace
        outcome = "Interrupted" if error.exit_code == 143 else "Failed"
        failure = failure_of(error)
        code = error.exit_code
        message = TerminationMessage(stage=options.stage, key=key, outcome=outcome, failure=failure)
    except Exception as error:
        logger.exception("unexpected failure")
        failure = StageFailure(error_class=type(error).__name__, message=str(error)[:500])
        code = 1
        message = TerminationMessage(
            stage=options.stage, key=key, outcome="Failed", failure=failure
        )
    else:
        logger.info("%s %s: %s", options.stage, report.outcome.lower(), report.path)
        code = 0
        message = TerminationMessage(
            stage=options.stage, key=key, outcome=report.outcome, metrics=report.metrics
        )
    seconds = round(time.monotonic() - started, 1)
    write_termination_message(message.model_copy(update={"seconds": seconds}))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m persona_jobs", description=__doc__)
    parser.add_argument("stage", choices=STAGE_NAMES)
    parser.add_argument("--manifest", default=os.environ.get("PERSONA_MANIFEST"))
    parser.add_argument("--store", default=os.environ.get("PERSONA_STORE"))
    return parser


def _required(value: str | None, variable: str) -> str:
    if not value:
        raise InputError(f"{variable} is not set", hint=f"Set {variable} or give the option")
    return value


if __name__ == "__main__":
    sys.exit(main())
