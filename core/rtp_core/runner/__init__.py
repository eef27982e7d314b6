"""F4: runs a scheduled batch on a device."""
