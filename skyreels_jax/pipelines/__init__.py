"""From sentences to films: host-side composition of models, diffusion and files."""
