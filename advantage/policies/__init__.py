"""Networks, distributions and normalisation; a policy is a network and a distribution."""
