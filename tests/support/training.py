"""Interruption of a training loop after some steps."""

from persona_jobs.errors import StageInterruptedError


class StopAfter:
    """A loop's control that writes one checkpoint after `steps` steps and stops there."""

    def __init__(self, steps, directory):
        self.left, self.directory = steps, directory

    def step_done(self):
        self.left -= 1

    @property
    def save_due(self):
        return self.left == 0

    def checkpoint(self, write):
        write(self.directory)
        raise StageInterruptedError("stopped")
