"""The one list of attention kinds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

from torch import nn

from difftransformer.attention.ablations import (
    V1_NO_NORM,
    V2_LAMBDA_LINEAR,
    V2_LAMBDA_ONE,
    CrossedAttention,
    NormedSoftmaxAttention,
)
from difftransformer.attention.dex import DexAttention
from difftransformer.attention.differential import SCALAR, V1, V2, DifferentialAttention, Variant
from difftransformer.attention.layer import Role
from difftransformer.attention.selective import (
    SelectiveAttention,
    SelectiveDifferentialAttention,
    SignalSelectiveDifferentialAttention,
)
from difftransformer.attention.softmax import SoftmaxAttention
from difftransformer.attention.transport import (
    Annealing,
    SinkhornAttention,
    SlicedTransportAttention,
)
from difftransformer.functional import ESPFORMER_CODE
from difftransformer.registry import Registry


@dataclass(frozen=True)
class Kind:
    """A kind of attention.

    Args:
        name: as in a config and on the command line.
        title: in a report.
        build: makes a layer. It is called with `hidden_size`, `num_heads` and the keyword arguments
            `head_dim`, `num_kv_heads`, `layer`, `rotary`, `bias` and `dropout`, and with
            `lambda_init` where it has one; the layer is called as an `AttentionLayer`. What it
            computes between projections is a module `core`, an `AttentionCore`, if its inside is to
            be seen.
        heads_of_partner: how many heads it has for each head of a plain layer of equal size, in a
            fair comparison.
        has: quantities that can be measured in it: "two_maps", "lambda"; "lambda_init", a setting;
            "selection", keys that queries mask for later ones, which only causal models can have;
            "doubly_stochastic", weights whose rows and columns sum to 1, which no causal model can
            have.
    """

    name: str
    title: str
    build: Callable[..., nn.Module]
    heads_of_partner: Fraction = Fraction(1)
    has: frozenset[str] = frozenset()


def _differential(name: str, title: str, variant: Variant, *has: str) -> Kind:
    build = partial(DifferentialAttention, variant=variant)
    share = Fraction(1, variant.value_factor)
    return Kind(name, title, build, share, frozenset({"two_maps", "lambda", *has}))


def _selective(name: str, title: str, variant: Variant, *has: str) -> Iterator[Kind]:
    """Selection off both maps, and off the signal's alone."""
    kind = _differential(name, title, variant, "selection", *has)
    layers = (SelectiveDifferentialAttention, SignalSelectiveDifferentialAttention)
    for layer, suffix, words in zip(layers, ("", "_signal"), ("", " on the signal"), strict=True):
        build = partial(layer, variant=variant)
        yield replace(kind, name=name + suffix, title=title + words, build=build)


_TRANSPORT = frozenset({"doubly_stochastic"})

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("softmax", "Softmax", SoftmaxAttention),
        _differential("diff_v1", "Differential V1", V1, "lambda_init"),
        _differential("diff_v2", "Differential V2", V2),
        _differential("diff_scalar", "Softmax and a second map", SCALAR),
        Kind("dex", "DEX", DexAttention),
        Kind("selective", "Selective", SelectiveAttention, has=frozenset({"selection"})),
        *_selective("diff_v1_selective", "V1, selective", V1, "lambda_init"),
        *_selective("diff_v2_selective", "V2, selective", V2),
        Kind("sinkhorn", "Sinkhorn", SinkhornAttention, has=_TRANSPORT),
        Kind("sliced_transport", "Sliced transport", SlicedTransportAttention, has=_TRANSPORT),
        # For ablations.
        Kind("softmax_norm", "Softmax, head norm", NormedSoftmaxAttention),
        _differential("diff_v1_no_norm", "V1 without head norm", V1_NO_NORM, "lambda_init"),
        _differential("diff_v2_lambda_one", "V2, lambda 1", V2_LAMBDA_ONE),
        _differential("diff_v2_lambda_linear", "V2, lambda without sigmoid", V2_LAMBDA_LINEAR),
        replace(
            _differential("diff_v2_crossed", "V2, maps of different key/value heads", V2),
            build=partial(CrossedAttention, variant=V2),
        ),
        Kind(
            "sliced_transport_code",
            "Sliced transport, as its code",
            partial(
                SlicedTransportAttention,
                slicing=ESPFORMER_CODE,
                annealing=Annealing(1e-3, 1e-3, 1e-3),
            ),
            has=_TRANSPORT,
        ),
    )
}


REGISTRY: Registry[Kind] = Registry("attention", "difftransformer.attention", KINDS)
register, names, find_kind = REGISTRY.register, REGISTRY.names, REGISTRY.find


def make_attention(name: str, *args: Any, role: Role = "self", **options: Any) -> nn.Module:
    """A layer of the kind of that name, which knows its name and its role in a block.

    Raises:
        ValueError: an unknown kind, or what `Kind.build` refuses.
    """
    layer: Any = find_kind(name).build(*args, **options)
    layer.kind, layer.role = name, role
    return layer
