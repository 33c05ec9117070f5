"""What a training and its objective can be told: options, defaults and help, each written once.

Plain dataclasses without torch, so that ``--help`` answers at once. The objectives inherit theirs;
the functions of :mod:`fewjump.api` and the command line take the same ones.
"""
