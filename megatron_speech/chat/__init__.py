"""Spoken dialogue: its training documents, the template, the engine that answers."""
