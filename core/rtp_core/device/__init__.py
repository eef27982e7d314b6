"""F2: the contract between models and hardware. Ops, plan, plugin loader, reference device."""
