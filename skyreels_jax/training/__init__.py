"""The train step, its state, the optimiser, and the loop around them; knows objectives, never
models.
"""
