"""Devices for tests, written as any vendor would write one: they import the public contract alone."""
