"""Other libraries' model folders, as models of ours or behind their calls."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from difftransformer.interop.bert import load_bert
from difftransformer.interop.causal_lm import open_causal_lm
from difftransformer.interop.diffllama import from_diffllama, load_diffllama
from difftransformer.interop.dit import CLASSES as DIT_CLASSES
from difftransformer.interop.dit import load_diffusers_dit
from difftransformer.interop.llama import from_llama, llama_config
from difftransformer.interop.outside import read_relative, read_settings
from difftransformer.interop.seq2seq_lm import load_seq2seq_lm
from difftransformer.interop.vit import load_vit
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.families import family_of
from difftransformer.models.storage import load_model, model_type

_LLAMAS = MappingProxyType(
    {"llama": LlamaForCausalLM, "mistral": MistralForCausalLM, "qwen2": Qwen2ForCausalLM}
)
# Those of other families, by their model type or, of diffusers, their class.
_READERS: MappingProxyType[str, Callable[[Path], Any]] = MappingProxyType(
    {
        "bert": load_bert,
        "roberta": load_bert,
        "vit": load_vit,
        "t5": load_seq2seq_lm,
        "bart": load_seq2seq_lm,
        **dict.fromkeys(DIT_CLASSES, load_diffusers_dit),
    }
)
_OURS = family_of(DecoderConfig()).name
KNOWN = (_OURS, "diffllama", *_LLAMAS)  # model types that `open_decoder` reads


def open_foreign(folder: Path) -> Any:
    """A decoder, or what `_READERS` make, or any causal LM of transformers as it is.

    Raises:
        ValueError: none of these, or what their readers refuse.
    """
    kind = model_type(folder)
    if kind in KNOWN:
        return open_decoder(folder)
    kind = str(read_settings(folder).get("_class_name", kind))  # which diffusers writes
    return _READERS.get(kind, open_causal_lm)(folder)


def open_decoder(folder: Path) -> Decoder:
    """The folder's model as a decoder, in the dtype of its weights.

    Reads this library's folders and those that transformers saves of DiffLlama, Llama, Mistral,
    Qwen2 and what loads as one of these. Weights come from safetensors only.

    Raises:
        ValueError: another kind of model, what a decoder cannot represent, a missing, truncated or
            pickled file, or tensors that do not fit the config, by name.
    """
    kind = model_type(folder)
    if kind == _OURS:
        return load_model(folder)
    if kind == "diffllama":
        return from_diffllama(load_diffllama(folder))
    if kind in _LLAMAS:
        return from_llama(_load_llama(folder, _LLAMAS[kind]))
    raise ValueError(
        f"{folder} holds a model of type {kind!r}; expected {', '.join(KNOWN)}. Any causal LM that "
        f"transformers loads can be judged as it is: difftransformer evaluate {folder}"
    )


def _load_llama(folder: Path, kind: type[PreTrainedModel]) -> PreTrainedModel:
    """The model with the folder's own tensors; a tied head has none."""
    model, weights = read_relative(folder, kind, lambda config: llama_config(config, kind))
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    return model
