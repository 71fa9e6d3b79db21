"""ToyFilm: a small procedural film world with captions, whose films arithmetic can judge."""
