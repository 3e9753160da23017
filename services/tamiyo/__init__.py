"""Tamiyo: the policy service, which decides when and where a network grows."""
