"""The PersonaModel API: the status of the resource (its spec is `persona_jobs.spec`)."""
