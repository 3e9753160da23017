"""The growth simulator: a host without images, in which a policy can be learned in minutes."""
