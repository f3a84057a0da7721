"""Training stages: one module a stage, one recipe a run."""
