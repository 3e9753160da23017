"""How it is trained, measured and judged."""
