"""The laboratory: estimators measured against worlds whose answers are known."""
