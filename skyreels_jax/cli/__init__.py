"""The command `skyreels-jax`: one short file per subcommand, parse -> build -> call."""
