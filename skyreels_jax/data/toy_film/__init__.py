"""ToyFilm: a small procedural film world with structured captions, whose films arithmetic can judge."""
