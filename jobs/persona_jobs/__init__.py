"""The machine-learning side of Persona-Pruner: one module a stage, usable without Kubernetes."""

__version__ = "0.1.0"
