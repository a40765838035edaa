"""Judges: language models that score answers, and whether their scores can be trusted."""
