"""The stages of a persona whose spec asks for nothing special."""

from persona_jobs.api import STAGE_NAMES

DEFAULT_STAGES = tuple(name for name in STAGE_NAMES if name != "export")
