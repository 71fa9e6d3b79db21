"""UMT5 text encoder: configuration, model, weight tables, tokens and contexts."""
