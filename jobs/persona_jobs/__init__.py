"""The machine-learning side of Persona-Pruner: one module per stage, usable without Kubernetes."""

from importlib.metadata import version

__version__ = version("persona-pruner")
