"""The model family: each package has config, modeling, weights and a README."""
