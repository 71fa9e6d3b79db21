"""The distortions of a clip that a model makes; who makes films asks for no more than their names.

Progressively: from the clip noised to a level, which is the strength (v2v, mild to strong); from
its first frame (i2v); from its text alone (t2v, the strongest).
"""

MODEL_KINDS = ("v2v", "i2v", "t2v")
ANEW = ("i2v", "t2v")  # from no noised clip: they know no strength but 1
