"""The CPU backend of rtp: C kernels behind the public device contract. Importing this loads nothing native."""
