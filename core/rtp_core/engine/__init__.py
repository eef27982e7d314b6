"""F5: the loop (schedule, execute, update), and the Python API on top of it."""
