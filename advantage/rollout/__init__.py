"""Drivers: the same `Rollout` from host environments and from on-device worlds."""
