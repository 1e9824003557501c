"""Recordings of anything, hours long, to a manifest of short transcribed segments."""
