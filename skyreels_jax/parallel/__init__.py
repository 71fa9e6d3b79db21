"""Over which devices arrays go: a mesh, rules for parameters, names for activations."""
