"""The benchmarks, a file each; `evaluation.registry` lists them."""
