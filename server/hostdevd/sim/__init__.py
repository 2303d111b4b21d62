"""The simulated host: the same ports, the same rules, no hardware."""
