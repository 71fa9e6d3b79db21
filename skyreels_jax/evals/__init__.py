"""Judges and benchmark suites: what a film shows, measured from its pixels."""
