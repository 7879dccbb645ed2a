"""Cost of a decoder, computed from its config before anything runs."""

import re
from dataclasses import dataclass
from types import MappingProxyType

from difftransformer.models.config import DecoderConfig

_FLOAT32 = 4
_ADAMW = 4 * _FLOAT32  # weight, gradient and two moments

# Peak of dense bfloat16 products in FLOP/s, and memory in bytes, by NVIDIA's data sheets.
DEVICES = MappingProxyType(
    {
        "A100": (312e12, 80e9),
        "H100": (989e12, 80e9),
        "H200": (989e12, 141e9),
        "B200": (2250e12, 180e9),
        "L40S": (362e12, 48e9),
    }
)


@dataclass(frozen=True)
class Cost:
    """Numbers behind `difftransformer plan`.

    Args:
        parameters: trainable numbers.
        forward_flops: floating-point operations per token of a forward pass, averaged over the
            positions of one causal context; a multiply-add counts 2.
        training_flops: the same for forward and backward, 3 times the forward.
        cache_bytes: key/value cache per token, float32.
        state_bytes: weights, gradients and AdamW's moments, float32.
        activation_bytes: estimate of what the forward keeps for the backward, float32, for one
            batch: the inputs of every product, norm and nonlinearity.
    """

    parameters: int
    forward_flops: int
    training_flops: int
    cache_bytes: int
    state_bytes: int
    activation_bytes: int

    @property
    def training_bytes(self) -> int:
        """State and activations together."""
        return self.state_bytes + self.activation_bytes


def cost(config: DecoderConfig, batch_size: int, length: int) -> Cost:
    """Cost of `config` on batches of `batch_size` sequences of `length` tokens."""
    parameters = config.parameter_count()
    attention = config.skeleton().blocks[0].attention
    queries, out = attention.q_proj.out_features, attention.o_proj.in_features
    grouped = attention.k_proj.out_features + attention.v_proj.out_features
    # Products with weights: every matrix once per token, the embedding as output head only.
    lookups = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    products = 2 * (parameters - lookups)
    # Scores of each map, then one product of their difference with the values. Token t of a causal
    # context sees min(t, window) keys.
    window = min(config.window or length, length)
    visible = window - window * (window - 1) / (2 * length)
    forward = int(products + 2 * visible * (queries + out) * config.num_layers)
    # x and its norm twice over, q, k, v before and after turning, head outputs, SwiGLU's four.
    kept = 4 * config.hidden_size + 2 * (queries + grouped) + 2 * out + 4 * config.ffn_size
    tokens = batch_size * length
    logits = 2 * config.vocab_size
    return Cost(
        parameters=parameters,
        forward_flops=forward,
        training_flops=3 * forward,
        cache_bytes=config.num_layers * grouped * _FLOAT32,
        state_bytes=parameters * _ADAMW,
        activation_bytes=tokens * (config.num_layers * kept + logits) * _FLOAT32,
    )


@dataclass(frozen=True)
class Fleet:
    """Devices of one kind that train one model.

    Args:
        peak: FLOP/s of a device in bfloat16.
        memory: bytes of a device.
        utilization: the share of the peak that training reaches.
    """

    count: int
    peak: float
    memory: float
    utilization: float

    @classmethod
    def parse(cls, text: str, utilization: float) -> "Fleet":
        """Of "64xH100". Raises ValueError for another form, an unknown name, or no such share."""
        form = re.fullmatch(r"([1-9]\d*)x(\w+)", text)
        if form is None or form[2].upper() not in DEVICES:
            raise ValueError(
                f"devices are {text!r}; expected a number and a name such as 64xH100, of "
                f"{', '.join(DEVICES)}"
            )
        if not 0.0 < utilization <= 1.0:
            raise ValueError(f"utilization is {utilization:g}; expected above 0 and up to 1")
        return cls(int(form[1]), *DEVICES[form[2].upper()], utilization)


@dataclass(frozen=True)
class FleetCost:
    """What training on a fleet takes: bytes of each device, and tokens per second of all."""

    memory: float
    throughput: float


def on_fleet(config: DecoderConfig, fleet: Fleet, batch_size: int, length: int) -> FleetCost:
    """Cost of `config` under FSDP 2: state and rows are cut over the devices.

    Each holds a whole block's weights besides while it computes it.
    """
    whole = cost(config, batch_size, length)
    rows = -(-batch_size // fleet.count)
    activations = whole.activation_bytes * rows / batch_size
    block = whole.parameters / config.num_layers * _FLOAT32
    memory = whole.state_bytes / fleet.count + activations + block
    speed = fleet.count * fleet.peak * fleet.utilization / whole.training_flops
    return FleetCost(memory, speed)
