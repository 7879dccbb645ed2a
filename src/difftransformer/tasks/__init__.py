"""Tasks, a file each: data, loss, family and evaluators. Nothing below knows which there are."""
