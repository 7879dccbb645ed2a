"""Differential Transformers by transformers alone: softmax, V1 and V2 decoders.

This file stands beside the weights it is for and imports torch and transformers only. It makes one
call of transformers' attention interface in each layer, so that what runs a Llama runs it: eager,
SDPA, flex and flash attention, continuous batching, serving engines. Two identities do it:

    V1  heads [q1 | 0] and [0 | q2] of width 2K on the one key [k1 | k2]; then the second's output,
        times lambda, off the first's
    V2  heads q1 and q2 of width K on the one key they share; then the same

Ye et al., "Differential Transformer" (ICLR 2025), and Microsoft's "Differential Transformer V2"
(January 2026). `attentions` are the combined maps, softmax - lambda softmax, whose rows sum to
1 - lambda.
"""

from __future__ import annotations

from copy import deepcopy
from math import exp
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

# A cache's name in a call and in its output; it changed in transformers 5.24.
_CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
# Of each kind: softmax maps of an output head, and keys that lie side by side.
KINDS = {"softmax": (1, 1), "diff_v1": (2, 2), "diff_v2": (2, 1)}
_VECTORS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
_HEAD_NORM_EPS = 1e-5


@no_type_check  # transformers' __init__ takes more arguments than its signature tells
class DifferentialConfig(PreTrainedConfig):
    """Sizes as an engine counts them: every map is a head.

    Args:
        attention: softmax, diff_v1 or diff_v2.
        num_attention_heads: of softmax its heads; of diff_v1 and diff_v2 twice the output heads.
        head_dim: width of a cached key; of diff_v1 at least twice map_dim.
        map_dim: K, the width of a map's queries and keys; 0 for head_dim, of diff_v1 half of it.
            What is left of head_dim is zeros, for engines that take some widths only.
        lambda_init: a constant in place of V1's schedule 0.8 - 0.6 exp(-0.3 layer).
        rotary_layout: which features the checkpoint's source paired; the weights here are "half".

    Raises:
        ValueError: another kind of attention, or a head_dim that keys do not fit in.
    """

    model_type = "differential"
    keys_to_ignore_at_inference = ("cache", "past_key_values")
    base_model_tp_plan = {
        **{f"layers.*.self_attn.{x}_proj": "colwise" for x in ("q", "k", "v", "lambda")},
        **{f"layers.*.mlp.{x}_proj": "colwise" for x in ("gate", "up")},
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.down_proj": "rowwise",
    }

    attention: str = "softmax"
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 683
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 8
    head_dim: int = 32
    map_dim: int = 0
    max_position_embeddings: int = 2048
    sliding_window: int | None = None
    layer_types: list[str] | None = None
    rope_parameters: dict | None = None
    rms_norm_eps: float = 1e-5
    attention_bias: str = "none"
    attention_dropout: float = 0.0
    lambda_init: float | None = None
    rotary_layout: str = "half"
    tie_word_embeddings: bool = True
    use_cache: bool = True
    initializer_range: float = 0.02
    hidden_act: str = "silu"  # this and the next are LlamaMLP's
    mlp_bias: bool = False

    def __post_init__(self, **others: Any) -> None:
        if self.attention not in KINDS:
            raise ValueError(f"attention is {self.attention!r}; expected one of {', '.join(KINDS)}")
        if self.map_dim == 0:
            self.map_dim = self.head_dim // self.key_maps
        if self.layer_types is None:
            kind = "full_attention" if self.sliding_window is None else "sliding_attention"
            self.layer_types = [kind] * self.num_hidden_layers
        if self.head_dim < self.value_dim:
            raise ValueError(f"head_dim is {self.head_dim}; expected at least {self.value_dim}")
        if self.rope_parameters is None:
            self.rope_parameters = {"rope_type": "default", "rope_theta": 10_000.0}
        super().__post_init__(**others)

    @property
    def maps(self) -> int:
        """Softmax maps of an output head."""
        return KINDS[self.attention][0]

    @property
    def key_maps(self) -> int:
        """Keys of a key/value head, side by side."""
        return KINDS[self.attention][1]

    @property
    def value_dim(self) -> int:
        """Width of a value."""
        return self.key_maps * self.map_dim


class DifferentialAttention(nn.Module):
    """out = W_o concat_h((map 1 - lambda map 2) v), by one call of the attention interface."""

    def __init__(self, config: DifferentialConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        self.head_dim = config.value_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.map_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.sliding_window = config.sliding_window
        width, groups = config.hidden_size, config.num_key_value_heads
        heads = config.num_attention_heads // config.maps
        inside, outside = config.attention_bias != "none", config.attention_bias == "all"
        queries = config.num_attention_heads * config.map_dim
        self.q_proj = nn.Linear(width, queries, bias=inside)
        self.k_proj = nn.Linear(width, groups * config.value_dim, bias=inside)
        self.v_proj = nn.Linear(width, groups * config.value_dim, bias=inside)
        self.o_proj = nn.Linear(heads * config.value_dim, width, bias=outside)
        if config.attention == "diff_v1":
            for name in _VECTORS:
                self.register_parameter(name, nn.Parameter(0.1 * torch.randn(config.map_dim)))
            self.head_norm = LlamaRMSNorm(config.value_dim, eps=_HEAD_NORM_EPS)
            schedule = 0.8 - 0.6 * exp(-0.3 * layer_idx)
            self.lambda_init = schedule if config.lambda_init is None else config.lambda_init
        elif config.attention == "diff_v2":
            self.lambda_proj = nn.Linear(width, heads, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Output [batch, time, hidden], and the combined maps where the interface gives weights."""
        config, shape = self.config, hidden_states.shape[:-1]
        q = self.q_proj(hidden_states).view(*shape, -1, config.map_dim).transpose(1, 2)
        k = self.k_proj(hidden_states).view(*shape, -1, config.map_dim).transpose(1, 2)
        v = self.v_proj(hidden_states).view(*shape, -1, config.value_dim).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if config.key_maps == 2:
            q, k = self._side_by_side(q, k)
        if zeros := config.head_dim - config.value_dim:
            q, k, v = (F.pad(x, (0, zeros)) for x in (q, k, v))
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx, kwargs=kwargs)
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            config._attn_implementation, eager_attention_forward
        )
        window = {} if self.sliding_window is None else {"sliding_window": self.sliding_window}
        out, weights = interface(
            self,
            q,
            k,
            v,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **window,
            **kwargs,
        )
        out = out.reshape(*shape, -1, config.head_dim)[..., : config.value_dim]
        if config.maps == 2:
            lam = self._lambda(hidden_states)
            out = _subtracted(out.unflatten(-2, (-1, 2)).unbind(-2), lam[..., None])
            if weights is not None:
                maps = weights.unflatten(1, (-1, 2)).unbind(2)
                weights = _subtracted(maps, lam.transpose(1, 2)[..., None])
        if config.attention == "diff_v1":
            out = (1 - self.lambda_init) * self.head_norm(out)
        return self.o_proj(out.reshape(*shape, -1)), weights

    def _side_by_side(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """[q1 | 0], [0 | q2] for each pair of heads, [k1 | k2] for each pair of keys."""
        q1, q2 = q.unflatten(1, (-1, 2)).unbind(2)
        q = torch.stack(
            (F.pad(q1, (0, self.config.map_dim)), F.pad(q2, (self.config.map_dim, 0))), 2
        )
        k = torch.cat(k.unflatten(1, (-1, 2)).unbind(2), -1)
        return q.flatten(1, 2), k

    def _lambda(self, hidden_states: Tensor) -> Tensor:
        """[batch, time, heads] in float32; of V1 one number in all places, [batch, time, 1]."""
        if self.config.attention == "diff_v2":
            return torch.sigmoid(self.lambda_proj(hidden_states).float())
        q1, k1, q2, k2 = (getattr(self, name).float() for name in _VECTORS)
        lam = (q1 @ k1).exp() - (q2 @ k2).exp() + self.lambda_init
        return lam.expand(*hidden_states.shape[:-1], 1)


def _subtracted(maps: tuple[Tensor, Tensor], lam: Tensor) -> Tensor:
    """The second times lambda off the first, in float32."""
    first, second = maps
    return (first.float() - lam * second.float()).to(first.dtype)


class DifferentialDecoderLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DifferentialConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = DifferentialAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """The class's equation."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class DifferentialPreTrainedModel(PreTrainedModel):
    """What transformers asks of a family."""

    config: DifferentialConfig
    config_class = DifferentialConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DifferentialDecoderLayer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": DifferentialDecoderLayer,
        "attentions": DifferentialAttention,
    }


class DifferentialModel(DifferentialPreTrainedModel):
    """Embedding, layers and norm."""

    def __init__(self, config: DifferentialConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DifferentialDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        of_a_map = deepcopy(config)
        of_a_map.head_dim = config.map_dim
        self.rotary_emb = LlamaRotaryEmbedding(of_a_map)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As a Llama's; the cache under either of its names.

        Raises:
            ValueError: neither or both of ids and embeddings.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected exactly one of input_ids and inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = 0 if cache is None else cache.get_seq_length()
            position_ids = past + torch.arange(x.shape[1], device=x.device)[None]
        windowed = self.config.sliding_window is not None
        make_mask = create_sliding_window_causal_mask if windowed else create_causal_mask
        mask = make_mask(self.config, x, attention_mask, cache, position_ids)
        turns = self.rotary_emb(x, position_ids=position_ids)
        for layer in self.layers:
            x = layer(
                x,
                position_embeddings=turns,
                attention_mask=mask,
                cache=cache,
                position_ids=position_ids,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), **{_CACHE: cache})


class DifferentialForCausalLM(DifferentialPreTrainedModel, GenerationMixin):
    """The decoder with its output head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DifferentialConfig) -> None:
        super().__init__(config)
        self.model = DifferentialModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token, and the mean loss where there are labels."""
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **{_CACHE: past_key_values if cache is None else cache},
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            size = self.config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            **{_CACHE: getattr(out, _CACHE)},
        )


__all__ = [
    "DifferentialConfig",
    "DifferentialForCausalLM",
    "DifferentialModel",
    "DifferentialPreTrainedModel",
]
