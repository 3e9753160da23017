"""The demonstration: a network that grows under a policy that learns while it serves."""
