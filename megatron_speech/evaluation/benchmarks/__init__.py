"""Published benchmarks, by name, as they lie on disks.

`registry.py` lists them; a reader for each layout turns a folder into `items.py`'s items;
`sound.py` finds, encodes or speaks what is heard; `score_pairs.py`, `score_answers.py` and
`score_choices.py` give figures.
"""
