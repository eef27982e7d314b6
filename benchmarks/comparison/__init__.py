"""rtp beside its peers: what is measured, by whom, and what it means. `benchmarks/peers.py` drives it."""
