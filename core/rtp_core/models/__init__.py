"""F3: models, each an assembly over the ladder named after its `model_type`."""
