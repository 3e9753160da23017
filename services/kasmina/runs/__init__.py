"""Runs and their episodes: what is played, written down, sent on and resumed."""
