"""Models of worlds: what happens after an action, from the world's own rules or learned from experience."""
