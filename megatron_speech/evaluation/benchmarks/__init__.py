"""Published benchmarks, by name, as they lie on disks.

`table.py` lists them; a reader for each layout turns a folder into `items.py`'s items, `sound.py`
finds, encodes or speaks what is heard, `score.py`, `ask.py` and `choose.py` give figures.
"""
