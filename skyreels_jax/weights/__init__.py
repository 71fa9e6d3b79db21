"""Weights by table: every model is described once, in both directions, by a tuple of rules.

A `Rule` says that a stored tensor ("blocks.{i}.attn1.to_q.weight") is a parameter
("blocks/attn1/q/kernel") in another layout. From the table and the shapes of the model
(`nnx.eval_shape`: no memory) follow the names and shapes of the whole file, so that loading
accounts for everything: each stored tensor is used once or listed as ignored, each parameter is
filled once, and one error names all that does not fit. The same table read backwards exports; two
tables of one model (diffusers, official) make a converter. Nothing here knows a model.
"""
