"""Bringing a cut model back towards the dense one: closed-form refit, then short fine-tuning."""
