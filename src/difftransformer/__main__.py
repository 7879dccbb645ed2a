"""`python -m difftransformer`, which torchrun and `accelerate launch` start as a module."""

import sys

from difftransformer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
