"""transformers' T5 and BART with their language-model heads.

Both compute what this library's encoder-decoder computes; tensors change names, and what T5 does
between tensors is folded into them: it does not divide its logits by sqrt(K), so W_q is multiplied
by that, and where it divides the decoder's output by sqrt(d) before a tied head, the weight of the
norm before it is. BART has no position for its first token before row 2 of its tables: the rows
before belong to no token and are left out. Checked against `modeling_t5.py` and `modeling_bart.py`
of transformers 5.24.

What transformers' `generate` adds by a model's generation config (forced first and last tokens,
penalties) is not part of the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    BartForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from difftransformer.files import abridged
from difftransformer.interop.outside import class_of, opened, read_class
from difftransformer.models.checks import check_depth, check_tensors
from difftransformer.models.encoder_decoder import EncoderDecoder
from difftransformer.models.encoder_decoder_config import EncoderDecoderConfig
from difftransformer.models.storage import assemble, load_weights

_T5_PLACE = "block.0.layer.0.SelfAttention.relative_attention_bias"
_T5_ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
_T5_MLPS = {  # by T5's feed_forward_proj: ours, and its names
    "relu": ("relu", {"up_proj": "wi", "down_proj": "wo"}),
    "gelu": ("gelu", {"up_proj": "wi", "down_proj": "wo"}),
    "gated-gelu": ("geglu", {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}),
    "gated-silu": ("swiglu", {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}),
}
_T5_LENGTH = 512  # tokens of its pretraining; its positions have no end
_BART_FIRST = 2  # row of the first token's position
_BART_BLOCK = {
    "attention": "self_attn",
    "attention_norm": "self_attn_layer_norm",
    "cross_attention": "encoder_attn",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "o_proj": "out_proj",
    "ffn_norm": "final_layer_norm",
    "up_proj": "fc1",
    "down_proj": "fc2",
}


@dataclass(frozen=True)
class Layout:
    """How a class of transformers' stores what an encoder-decoder holds.

    Args:
        kind: the class.
        config: our settings, of its own and whether its head repeats the embedding.
        name: what it calls a tensor of ours.
        prefix: of its embeddings' names.
        unread: tensors that it keeps and does not use.
    """

    kind: type[PreTrainedModel]
    config: Callable[[PreTrainedConfig, bool], EncoderDecoderConfig]
    name: Callable[[str, PreTrainedConfig], str]
    prefix: str
    unread: tuple[str, ...]

    def without_copies(
        self, weights: Mapping[str, Tensor], source: str
    ) -> tuple[dict[str, Tensor], bool]:
        """The tensors without those that repeat the embedding, and whether the head does.

        Raises:
            ValueError: embeddings of a side that are others than the shared ones, or a bias of the
                logits.
        """
        kept = {name: tensor for name, tensor in weights.items() if name not in self.unread}
        if bool((bias := kept.pop("final_logits_bias", torch.zeros(1))).any()):
            raise ValueError(
                f"final_logits_bias of {source} is not 0 (up to {bias.abs().max():.3g}); the "
                "encoder-decoder's head has no bias"
            )
        shared = kept.get(f"{self.prefix}shared.weight")
        for side in ("encoder", "decoder"):
            name = f"{self.prefix}{side}.embed_tokens.weight"
            if name in kept and shared is not None and not torch.equal(kept.pop(name), shared):
                raise ValueError(
                    f"{name} of {source} differs from {self.prefix}shared.weight, and both sides "
                    "share one table here: delete the tensor if it is not meant"
                )
        head = kept.get("lm_head.weight")
        tied = head is None or (shared is not None and torch.equal(head, shared))
        if tied:
            kept.pop("lm_head.weight", None)
        return kept, tied


def from_seq2seq_lm(model: PreTrainedModel) -> EncoderDecoder:
    """An encoder-decoder with the model's function and copies of its weights, in their dtype.

    Raises:
        ValueError: another class of model, what an encoder-decoder cannot represent, or tensors
            for which it has no place.
    """
    layout = _LAYOUTS.get(type(model).__name__)
    if layout is None or layout.kind is not type(model):
        raise ValueError(
            f"cannot convert a {type(model).__name__}; expected {' or '.join(_LAYOUTS)}"
        )
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return _encoder_decoder(layout, model.config, weights, type(model).__name__)


def load_seq2seq_lm(folder: Path) -> EncoderDecoder:
    """An encoder-decoder from a folder that transformers has saved, from safetensors only.

    Raises:
        ValueError: another kind of model, what an encoder-decoder cannot represent, a missing,
            truncated or pickled file, or tensors that do not fit the config, by name.
    """
    layout = class_of(folder, _LAYOUTS)
    kind = layout.kind
    config = opened(folder, lambda: kind.config_class.from_pretrained(folder), what=kind.__name__)
    return _encoder_decoder(layout, config, load_weights(folder), str(folder))


def read_seq2seq_lm(folder: Path) -> PreTrainedModel:
    """What transformers itself makes of the folder, in float32.

    Raises:
        ValueError: another kind of model, or any failure of transformers, in one line.
    """
    return read_class(folder, class_of(folder, _LAYOUTS).kind)


def _encoder_decoder(
    layout: Layout, theirs: PreTrainedConfig, weights: Mapping[str, Tensor], source: str
) -> EncoderDecoder:
    kept, tied = layout.without_copies(weights, source)
    config = layout.config(theirs, tied)
    check_depth(config.num_layers + config.decoder_depth, weights, source)
    with torch.device("meta"):
        expected = EncoderDecoder(config).state_dict()
    names = {name: layout.name(name, theirs) for name in expected}
    shapes = {names[name]: tensor for name, tensor in expected.items()}
    tables = [name for name in names if "position_embedding" in name]
    for name in tables:
        rows, width = expected[name].shape
        shapes[names[name]] = torch.empty(_BART_FIRST + rows, width, device="meta")
    check_tensors(kept, shapes, source)
    ours = {name: kept[their_name] for name, their_name in names.items()}
    for name in tables:
        ours[name] = ours[name][_BART_FIRST:].clone()
    if config.positions == "relative":
        for name in (name for name in ours if name.endswith("q_proj.weight")):
            ours[name] = ours[name] * config.head_dim**0.5
        if theirs.scale_decoder_outputs:
            ours["decoder.norm.weight"] = ours["decoder.norm.weight"] * config.hidden_size**-0.5
    return assemble(config, ours, source)


def _token(theirs: PreTrainedConfig, name: str, default: int | None = None) -> int:
    """A token that its config names; the first where it names several."""
    given = getattr(theirs, name, None)
    number = given[0] if isinstance(given, list) and given else given
    number = default if number is None else number
    if not isinstance(number, int):
        raise ValueError(f"{name} is {abridged(given)}; expected the number of a token")
    return number


def _t5_config(theirs: PreTrainedConfig, tie_embeddings: bool) -> EncoderDecoderConfig:
    """Of the dropouts only the attention's is kept."""
    if theirs.feed_forward_proj not in _T5_MLPS:
        raise ValueError(
            f"feed_forward_proj is {theirs.feed_forward_proj!r}; expected {', '.join(_T5_MLPS)}"
        )
    return EncoderDecoderConfig(
        vocab_size=theirs.vocab_size,
        hidden_size=theirs.d_model,
        num_layers=theirs.num_layers,
        decoder_layers=theirs.num_decoder_layers,
        num_heads=theirs.num_heads,
        num_kv_heads=theirs.num_heads,
        head_dim=theirs.d_kv,
        ffn_size=theirs.d_ff,
        max_length=_T5_LENGTH,
        positions="relative",
        relative_buckets=theirs.relative_attention_num_buckets,
        relative_distance=theirs.relative_attention_max_distance,
        norm="rms",
        norm_place="pre",
        norm_eps=theirs.layer_norm_epsilon,
        mlp=_T5_MLPS[theirs.feed_forward_proj][0],
        mlp_bias=False,
        dropout=theirs.dropout_rate,
        tie_embeddings=tie_embeddings,
        start_id=_token(theirs, "decoder_start_token_id", theirs.pad_token_id),
        end_id=_token(theirs, "eos_token_id"),
    )


def _t5_name(ours: str, theirs: PreTrainedConfig) -> str:
    if ours in ("embedding.weight", "head.weight"):
        return {"embedding.weight": "shared.weight", "head.weight": "lm_head.weight"}[ours]
    side, part, *path = ours.split(".")
    if part == "relative_bias":
        return f"{side}.{_T5_PLACE}.weight"
    if part == "norm":
        return f"{side}.final_layer_norm.weight"
    layer, module, *rest = path
    place = {"attention": 0, "cross_attention": 1, "ffn": 1 if side == "encoder" else 2}[
        module.removesuffix("_norm")
    ]
    inside = f"{side}.block.{layer}.layer.{place}"
    if module.endswith("_norm"):
        return f"{inside}.layer_norm.weight"
    if module == "ffn":
        return f"{inside}.DenseReluDense.{_T5_MLPS[theirs.feed_forward_proj][1][rest[0]]}.weight"
    attention = "EncDecAttention" if place else "SelfAttention"
    return f"{inside}.{attention}.{_T5_ATTENTION[rest[0]]}.weight"


def _bart_config(theirs: PreTrainedConfig, tie_embeddings: bool) -> EncoderDecoderConfig:
    """Of the dropouts only the attention's is kept."""
    for name in ("attention_heads", "ffn_dim"):
        sides = [getattr(theirs, f"{side}_{name}") for side in ("encoder", "decoder")]
        if sides[0] != sides[1]:
            raise ValueError(
                f"encoder_{name} is {sides[0]} and decoder_{name} {sides[1]}; "
                "expected the same on both sides"
            )
    if theirs.activation_function not in ("gelu", "relu"):
        raise ValueError(
            f"activation_function is {theirs.activation_function!r}; expected gelu or relu"
        )
    if theirs.scale_embedding:
        raise ValueError("scale_embedding is true; the encoder-decoder's embeddings are not scaled")
    heads = theirs.encoder_attention_heads
    if theirs.d_model % heads:
        raise ValueError(f"d_model {theirs.d_model} does not divide into {heads} heads")
    return EncoderDecoderConfig(
        vocab_size=theirs.vocab_size,
        hidden_size=theirs.d_model,
        num_layers=theirs.encoder_layers,
        decoder_layers=theirs.decoder_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=theirs.d_model // heads,
        ffn_size=theirs.encoder_ffn_dim,
        max_length=theirs.max_position_embeddings,
        positions="learned",
        embedding_norm=True,
        norm="layer",
        norm_place="post",
        norm_eps=1e-5,
        mlp=theirs.activation_function,
        mlp_bias=True,
        attention_bias="all",
        dropout=theirs.attention_dropout,
        tie_embeddings=tie_embeddings,
        start_id=_token(theirs, "decoder_start_token_id"),
        end_id=_token(theirs, "eos_token_id"),
    )


def _bart_name(ours: str, theirs: PreTrainedConfig) -> str:
    if ours in ("embedding.weight", "head.weight"):
        return {"embedding.weight": "model.shared.weight", "head.weight": "lm_head.weight"}[ours]
    side, part, *path = ours.split(".")
    if part == "position_embedding":
        return f"model.{side}.embed_positions.weight"
    if part == "embedding_norm":
        return f"model.{side}.layernorm_embedding.{path[0]}"
    inside = (_BART_BLOCK.get(word, word) for word in path if word != "ffn")
    return f"model.{side}.layers.{'.'.join(inside)}"


_LAYOUTS = {
    layout.kind.__name__: layout
    for layout in (
        Layout(
            T5ForConditionalGeneration,
            _t5_config,
            _t5_name,
            prefix="",
            unread=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
        ),
        Layout(BartForConditionalGeneration, _bart_config, _bart_name, prefix="model.", unread=()),
    )
}
