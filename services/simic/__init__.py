"""Simic: keeps every experience once, and retrains the policy from it."""
