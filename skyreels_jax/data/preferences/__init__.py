"""Pairs of clips that differ in motion alone: distorted twins, records, human labels."""
