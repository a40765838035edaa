"""The command line, `persona`."""

import os

# Progress is drawn by the commands themselves.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from .app import app, main

__all__ = ["app", "main"]
