"""What the larger commands do, between the command line and the machinery."""
