"""What grows: hosts, slots, seeds, and the network that they make."""
