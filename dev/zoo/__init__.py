"""The config zoo: its metafiles, what they must agree with, the tables made of them.

`metafile.py` reads and writes, `naming.py` says what a config's name promises,
`counting.py` counts, `updating.py` adds and refreshes entries, `checking.py` finds what
is wrong and `tables.py` renders.
"""
