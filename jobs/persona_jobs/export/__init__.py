"""A finished checkpoint in the forms that other programs take: GGUF files, and its model card."""
