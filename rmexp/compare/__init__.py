"""Runs side by side: which reward model is better, and is the difference real? No torch."""
