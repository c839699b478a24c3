"""What an update climbs or descends: surrogate and value losses."""
