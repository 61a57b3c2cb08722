"""How long a compiled program should take on a GPU: its kernels, counted from the optimised HLO, at
rates that are assumed. A prediction, not a measurement.
"""
