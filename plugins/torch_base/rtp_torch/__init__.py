"""The base of rtp's plugins for hardware that torch supports. Importing this imports no torch."""
