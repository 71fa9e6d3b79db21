"""A judge of motion: a film in, one number out."""
