"""The Kubernetes side of Persona-Pruner: watches PersonaModel resources and rolls them out."""
