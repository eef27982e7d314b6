"""A worked example of an rtp backend."""
