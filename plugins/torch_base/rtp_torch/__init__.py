"""Devices that torch supports: what their plugins share."""
