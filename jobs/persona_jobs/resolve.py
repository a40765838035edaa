"""Look up the sources of a PersonaModel before its stages are planned.

`python -m persona_jobs.resolve` is a Job of its own in a cluster, where the operator has neither
the sources' credentials nor a client for them. It reads PERSONA_MANIFEST as the stages do, and
leaves the commit or digest of each source that the spec doesn't pin in the termination message. A
character card is read as well, so that a bad one is reported at once.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path

from .api import load_resource
from .pipeline.pins import RESOLVE
from .pipeline.process import (
    ProcessReport,
    configure_logging,
    raising_on_signals,
    required_setting,
    run_process,
)
from .sources import cards
from .sources.resolve import SourceResolver

logger = logging.getLogger("persona_jobs.resolve")


def main() -> int:
    """Look up the sources and return the process's exit code (see `persona_jobs.errors`)."""
    configure_logging()
    with raising_on_signals():
        return run_process(ProcessReport(RESOLVE), _resolve)


def _resolve(report: ProcessReport) -> None:
    manifest = required_setting(os.environ.get("PERSONA_MANIFEST"), "PERSONA_MANIFEST")
    resource = load_resource(Path(manifest))
    spec = resource.manifest()["spec"]
    cache = Path(os.environ.get("PERSONA_CACHE") or tempfile.gettempdir())
    found = SourceResolver(cache, os.environ).look_up(spec)
    card = resource.spec.persona.card
    if card is not None:  # a bad one fails here rather than behind the first expensive stage
        for note in cards.of_spec(card, cache).notes:
            logger.info("%s", note)
    for name, digest in found.items():
        logger.info("spec.%s is at %s", name, digest)
    report.results = {"sources": dict(found)}


if __name__ == "__main__":
    sys.exit(main())
