"""Likelihood tasks, spoken question answering and the cascade, on an exported model folder.

The table of tasks is in `tasks.py`.
"""
