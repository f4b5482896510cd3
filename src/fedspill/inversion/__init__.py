"""The methods that attacks are made of; a folder is a method, a file one step of it.

Each floor uses those below it, and the folders of a floor do not import each other:

    traps | low_rank | fishing | reversible | per_example | generators | learned | discovery
    matching | analytic | imprint | bilevel
    exclusivity | labels | representations | disaggregation | subspace
    objective | recursion | identity | gradients | codebooks
    kernels | search | network | theory | priors | tables | shift_structure
"""
