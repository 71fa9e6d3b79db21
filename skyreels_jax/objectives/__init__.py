"""Training objectives: values that map (model, batch, key) to an unreduced loss."""
