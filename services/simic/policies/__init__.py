"""The policy registry: artifacts, versions, and what happened to them."""
