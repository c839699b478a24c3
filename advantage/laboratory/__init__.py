"""The laboratory: estimators measured on small problems whose exact answers are known."""
