"""Language models: loading, masking the FFN channels, cutting them out, and running them."""
