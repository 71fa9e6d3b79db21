"""`python -m skyreels_jax` is the command `skyreels-jax`."""

from skyreels_jax.cli.main import main

raise SystemExit(main())
