"""Speed as a ratio to one network pass, to a training step, or to a peer."""
