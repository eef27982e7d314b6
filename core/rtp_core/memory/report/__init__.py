"""Reports over a memory snapshot: for terminals, browsers and other tools."""
