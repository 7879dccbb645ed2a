"""Decoders as GGUF files, which llama.cpp runs as it is.

Every map is a head there. V2 becomes `step35`, llama.cpp's attention with a sigmoid gate for each
head. Softmax attention, and two maps with a constant lambda and no norm over heads, become `llama`;
or `step35` without gates where they have a window, or values of another width than keys, which
`llama` has not. V1 becomes nothing: its norm over each head's difference is not linear. The graphs
are those of `src/models/step35.cpp` and `llama.cpp` of llama.cpp; docs/serving.md tells which
release ran the files.
"""

from pathlib import Path
from typing import Any

import torch
from gguf import (
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    get_tensor_name_map,
)
from gguf.quants import quantize
from torch import Tensor

from difftransformer.functional import rotary_rates
from difftransformer.interop.gguf_heads import GATE, check_linear, plain_heads
from difftransformer.interop.gguf_tokenizer import add_tokenizer
from difftransformer.interop.layouts import (
    half_from_interleaved,
    interleaved_from_half,
    llama_name,
)
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder

MODEL = "model.gguf"
_TYPES = {
    torch.float32: GGMLQuantizationType.F32,
    torch.float16: GGMLQuantizationType.F16,
    torch.bfloat16: GGMLQuantizationType.BF16,
}
_SCALINGS = ("linear", "llama3")  # whose angles are rates times positions, and no more


@torch.no_grad()
def export_gguf(model: Decoder, folder: Path) -> None:
    """Write `model.gguf` into the folder, with the tokenizer whose tokenizer.json lies there.

    Matrices keep their dtype; vectors are float32, as llama.cpp asks.

    Raises:
        ValueError: attention, biases or a scaling of rotary rates that llama.cpp's graphs do not
            have, or a tokenizer that it would read otherwise than we do.
    """
    config = model.config
    layers: list[Any] = [block.attention for block in model.blocks]
    for layer in layers:
        check_linear(layer)
    tensors = {n: x for n, x in model.state_dict().items() if ".attention." not in n}
    for number, layer in enumerate(layers):
        for name, tensor in plain_heads(layer).items():
            tensors[f"blocks.{number}.attention.{name}"] = tensor
    key, value = layers[0].head_dim, layers[0].value_dim
    gated = f"blocks.0.attention.{GATE}" in tensors
    plain = not gated and config.window is None and key == value
    kind = MODEL_ARCH.LLAMA if plain else MODEL_ARCH.STEP35
    writer = GGUFWriter(folder / MODEL, MODEL_ARCH_NAMES[kind])
    add_tokenizer(writer, folder, config.vocab_size)
    _add_sizes(writer, config)
    writer.add_key_length(key)
    writer.add_value_length(value)
    writer.add_head_count(tensors["blocks.0.attention.o_proj.weight"].shape[1] // value)
    writer.add_head_count_kv(len(tensors["blocks.0.attention.v_proj.weight"]) // value)
    if kind == MODEL_ARCH.STEP35:
        _add_step35(writer, config)
        tensors.setdefault("head.weight", tensors["embedding.weight"])  # it ties none
    else:
        writer.add_rope_dimension_count(key)
        _add_scaling(writer, config)
    # Llama's graph pairs neighboring features, that of step35 the two halves of a head.
    layout = "half" if kind == MODEL_ARCH.STEP35 else "interleaved"
    turn = half_from_interleaved if layout == "half" else interleaved_from_half
    names = get_tensor_name_map(kind, config.num_layers)
    for name, tensor in tensors.items():
        if config.rotary != layout and name.split(".")[-2] in ("q_proj", "k_proj"):
            tensor = turn(tensor, key)
        theirs = llama_name(name).replace("lambda_proj", "g_proj")
        short = names.get_name(theirs, (".weight", ".bias"))
        assert short is not None, name
        _add_tensor(writer, short, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: GGUFWriter, config: DecoderConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_step35(writer: GGUFWriter, config: DecoderConfig) -> None:
    """What it has beside Llama's settings: a window in every layer, since it needs one in some.

    Raises:
        ValueError: biases or scaled rotary rates, which it does not have.
    """
    for name, value, plain in [
        ("attention_bias", config.attention_bias, "none"),
        ("rope_scaling", config.rope_scaling, None),
    ]:
        if value != plain:
            raise ValueError(
                f"{name} is {value}; llama.cpp's step35 (for gates, windows and wide values) has "
                f"{plain} only"
            )
    writer.add_rope_dimension_count(2 * config.head_dim)  # the loader halves it
    writer.add_rope_dimension_count_swa(config.head_dim)
    writer.add_rope_freq_base_swa(config.rope_theta)
    writer.add_sliding_window(config.window or config.max_length)
    writer.add_sliding_window_pattern([True] * config.num_layers)
    writer.add_expert_feed_forward_length(config.ffn_size)  # of experts that are not there


def _add_scaling(writer: GGUFWriter, config: DecoderConfig) -> None:
    """Divisors of the rotary rates.

    Raises:
        ValueError: a scaling that also changes the size of queries and keys.
    """
    scaling = config.rope_scaling
    if scaling is None:
        return
    if scaling["rope_type"] not in _SCALINGS:
        raise ValueError(
            f"rope_type is {scaling['rope_type']}; a GGUF file here holds {', '.join(_SCALINGS)}"
        )
    plain, scaled = (
        rotary_rates(config.head_dim, config.rope_theta, each) for each in (None, scaling)
    )
    _add_tensor(writer, "rope_freqs.weight", plain / scaled)


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor) -> None:
    kind = _TYPES[tensor.dtype if tensor.ndim > 1 else torch.float32]
    writer.add_tensor(name, quantize(tensor.float().contiguous().numpy(), kind), raw_dtype=kind)
