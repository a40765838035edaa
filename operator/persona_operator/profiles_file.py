"""The file with the resource profiles, which is read again when it changes."""

import logging
from collections.abc import Mapping
from pathlib import Path

from persona_jobs.errors import InputError

from .settings import Profile, read_profiles

logger = logging.getLogger(__name__)


class ProfilesFile:
    """Reads the profiles again and again; a wrong file leaves the former ones in force.

    Args:
        path: the file, None where the settings hold the profiles.
        profiles: the profiles that were read at the start.
    """

    def __init__(self, path: Path | None, profiles: Mapping[str, Profile]) -> None:
        self._path = path
        self._profiles = profiles
        self._reported: str | None = None

    @property
    def valid(self) -> bool:
        """Return whether the file could be used when it was last read."""
        return self._reported is None

    def read(self) -> Mapping[str, Profile]:
        """Return the profiles of the file; each error is logged once."""
        if self._path is None:
            return self._profiles
        try:
            profiles = read_profiles(self._path)
        except InputError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                logger.error("The former resource profiles stay in force: %s", error)  # noqa: TRY400
            return self._profiles
        self._reported = None
        if profiles != self._profiles:
            logger.info("The resource profiles have changed and apply to new pods")
            self._profiles = profiles
        return self._profiles
