"""Training and testing of a stream: options, a run, epochs, one epoch, processes."""
