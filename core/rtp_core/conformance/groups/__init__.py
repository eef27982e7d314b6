"""The groups of the suite, one module each: `cases(subject)` yields what a device must do."""
