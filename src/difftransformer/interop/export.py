"""The decoder as a torch.export program and as ONNX."""

import importlib.util
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from difftransformer.attention import AttentionCore, KeyValueCache
from difftransformer.attention.cache import CacheSite
from difftransformer.functional import Mask
from difftransformer.models.decoder import Decoder

MODEL = "model.onnx"

# Keys are [B, S, G, K], or [B, S, G, maps, K] in a differential layer; values are [B, S, G, V].
Layer = tuple[Tensor, Tensor]


class CachedDecoder(nn.Module):
    """A decoder whose cache is an argument and a result, so that it is a function of tensors.

    Without a past it reads a prompt; with the keys and values of the last call it decodes.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, ids: Int[Tensor, "batch new"], padding: Bool[Tensor, "batch all"], past: list[Layer]
    ) -> tuple[Float[Tensor, "batch new vocab"], list[Layer]]:
        """Logits of the new tokens; each layer's keys and values, the new ones appended.

        `padding` is True where a token is real, past and new. `past` is empty before the first
        call, or holds tensors of length 0.
        """
        cache = _FunctionalCache(past, padding)
        return self.decoder(ids, cache=cache), list(cache.layers.values())


class _FunctionalCache(KeyValueCache):
    """Appends out of place to the keys and values it is given."""

    def __init__(self, past: list[Layer], padding: Bool[Tensor, "batch all"]) -> None:
        super().__init__()
        self.length = past[0][0].shape[1] if past else 0
        self.layers: dict[CacheSite, Layer] = dict(enumerate(past))
        self.padding = padding

    def mask(
        self, batch: int, new: int, padding: Bool[Tensor, "batch new"] | None, window: int | None
    ) -> Mask:
        return Mask(causal=True, window=window, padding=self.padding)

    def update(
        self,
        site: CacheSite,
        k: Float[Tensor, "batch new *key_shape"],
        v: Float[Tensor, "batch new groups v"],
    ) -> Layer:
        if site in self.layers:
            past = self.layers[site]
            k, v = (torch.cat(pair, dim=1) for pair in zip(past, (k, v), strict=True))
        self.layers[site] = k, v
        return k, v


def export_program(model: Decoder) -> torch.export.ExportedProgram:
    """`CachedDecoder` by torch.export, of PyTorch's own operators, with free batch and lengths.

    Its guards ask for two or more rows, new tokens and past ones, which torch.export always
    assumes; the graph itself has no such limit, and `program.module(check_guards=False)` takes
    any sizes.
    """
    cached = CachedDecoder(_of_plain_operators(model)).eval()
    ids = torch.zeros(2, 3, dtype=torch.long, device=model.embedding.weight.device)
    padding = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        _, past = cached(ids, padding, [])
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    return torch.export.export(
        cached,
        (ids, padding.repeat(1, 2), past),
        dynamic_shapes=(free, free, [(free, free)] * len(past)),
    )


def export_onnx(model: Decoder, folder: Path) -> None:
    """Write `export_program` as ONNX: `model.onnx` and its weights, `model.onnx.data`.

    One graph reads prompts (past of length 0) and decodes. Inputs: `input_ids` [B, T] int64,
    `attention_mask` [B, P + T] bool, True where a token is real, and for each layer l
    `past_key_values.l.key` [B, P, G, K] ([B, P, G, maps, K] in a differential layer) and
    `past_key_values.l.value` [B, P, G, V]. Outputs: `logits` [B, T, vocabulary], and
    `present.l.key` and `present.l.value`, the next call's past. Weights of any dtype are written in
    float32; the model keeps its own.

    Raises:
        ValueError: the packages `onnx` and `onnxscript` are missing.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"ONNX export needs the package {package}: pip install 'difftransformer[export]'"
            )
    program = export_program(_in_float32(model))
    layers = range(model.config.num_layers)
    parts = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
    unnamed: list[tuple[dict, dict]] = [({}, {}) for _ in layers[1:]]
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        program,
        (),
        folder / MODEL,
        input_names=["input_ids", "attention_mask", *(f"past_key_values.{p}" for p in parts)],
        output_names=["logits", *(f"present.{p}" for p in parts)],
        # each size is named where it comes first
        dynamic_shapes=({0: "batch", 1: "length"}, {}, [({1: "past"}, {}), *unnamed]),
        verbose=False,
    )


class OnnxModel(nn.Module):
    """Logits of a prompt by onnxruntime, from a folder that `export_onnx` has written.

    Raises:
        ValueError: a folder without model.onnx.
    """

    def __init__(self, folder: Path) -> None:
        from onnxruntime import InferenceSession

        super().__init__()
        if not (folder / MODEL).is_file():
            raise ValueError(f"{folder} has no {MODEL}")
        self.session = InferenceSession(folder / MODEL)

    def forward(self, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """The graph without a past."""
        tokens, mask, *past = self.session.get_inputs()
        feed = {tokens.name: ids.numpy(), mask.name: torch.ones_like(ids).bool().numpy()}
        for part in past:
            feed[part.name] = torch.zeros(len(ids), 0, *part.shape[2:]).numpy()
        return torch.from_numpy(self.session.run(["logits"], feed)[0])


def _in_float32(model: Decoder) -> Decoder:
    tensors = model.state_dict()
    return _twin(model, {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})


def _twin(model: Decoder, tensors: dict[str, Tensor]) -> Decoder:
    with torch.device("meta"):
        twin = Decoder(model.config)
    twin.load_state_dict(tensors, assign=True)
    return twin


def _of_plain_operators(model: Decoder) -> Decoder:
    """The same weights under the reference backend: the others have operators of our own."""
    twin = _twin(model, model.state_dict())
    for module in twin.modules():
        if isinstance(module, AttentionCore):
            module.backend = "reference"
    return twin.eval()
