"""Methods that climb the policy gradient."""
