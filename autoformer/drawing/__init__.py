"""Architectures inside a budget, drawn and walked to without evaluating anything.

In: a space, a cost model, a `Budget`. Out: `Candidates` (`budgeted`), from which searches, baselines and trainings draw. Where
all blocks of a network cost alike, the part of a space inside the limits is counted in closed form (`region`); where they do
not, it is drawn from by tilting (`tilted`). `outlines` are what is chosen for a whole network, and `walk` changes an
architecture one choice at a time.
"""
