"""One file per verb of the command line: its options and what it does with them.

These files are imported to answer ``--help``, so they import nothing heavy at the top.
"""
