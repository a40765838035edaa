"""Persona sensitivity of queries: how far the persona moves the model's hidden states."""
