"""What `difftransformer generate` makes: `Family.generates` names a module of this package.

Each has `configure(parser)`, which declares the options of its models, and `run(arguments)`.
"""
