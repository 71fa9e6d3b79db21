"""Array types, configuration, errors, random streams, tree paths."""
