"""What a label says of the chosen film of a pair, compared with the rejected one."""

LABELS = ("better", "worse", "tie")
BETTER, WORSE, TIE = range(3)  # in `LABELS`, and the order of all probabilities
