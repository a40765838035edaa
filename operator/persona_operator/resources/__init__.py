"""Pure builders of the manifests that the operator applies."""
