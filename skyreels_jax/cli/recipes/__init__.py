"""What `skyreels-jax train` can train: for each kind its model, its data and its export."""
