"""The run folder: checkpoints, logs and the learning curve, all readable without running any code."""
