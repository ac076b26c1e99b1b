"""Saved scores: reading, matching, metrics, pictures."""
