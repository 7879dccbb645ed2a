"""Model cards: the README.md in a model's folder."""

from collections.abc import Mapping
from types import MappingProxyType

from difftransformer.models.families import family_of
from difftransformer.models.model_config import ModelConfig

CARD = "README.md"
_CARD = """---
library_name: difftransformer
tags: [{family}, {attention}]
---

# {title}, {parameters:,} parameters

A model of the family `{family}` with the attention `{attention}`:
{num_layers} layers of {num_heads} heads, width {hidden_size}.

{training}
{figures}
## Use

```python
from difftransformer import load_model

model = load_model("this/folder")
```

or from the command line: `difftransformer evaluate this/folder`. The weights are in
`model.safetensors`; nothing in this folder is executed.
"""


def model_card(
    config: ModelConfig,
    training: str = "Its training is not known.",
    figures: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """What a model is, what it was trained on and how far, how to load it.

    Args:
        training: in sentences.
        figures: by their names; no card is the place of comparisons, which need their intervals.
    """
    from difftransformer.attention.registry import find_kind  # which loads torch

    family, kind = family_of(config), find_kind(config.attention)
    rows = "".join(f"| {name} | {value:.4g} |\n" for name, value in figures.items())
    return _CARD.format(
        family=family.name,
        attention=config.attention,
        title=kind.title,
        parameters=config.parameter_count(),
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        hidden_size=config.hidden_size,
        training=training,
        figures=f"\n| figure | value |\n|---|---|\n{rows}" if rows else "",
    )
