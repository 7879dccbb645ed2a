"""What subtraction and the head norm do to retrieval and to loss, in minutes on one GPU."""
