"""Language models: loading, masking and pruning their FFN channels, and running them."""
