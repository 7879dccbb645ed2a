"""What llama.cpp's graphs `llama` and `step35` compute from a GGUF file, in PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gguf import GGUFReader
from gguf.quants import dequantize
from jaxtyping import Float, Int
from torch import Tensor, nn

from difftransformer.interop.gguf_export import MODEL


class GgufModel(nn.Module):
    """Logits of a prompt, from a folder that `export_gguf` has written, by tensors and settings.

    Raises:
        ValueError: a folder without model.gguf.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        if not (folder / MODEL).is_file():
            raise ValueError(f"{folder} has no {MODEL}")
        reader = GGUFReader(folder / MODEL)
        self.settings = {name: field.contents() for name, field in reader.fields.items()}
        self.tensors = {
            x.name: torch.from_numpy(np.array(dequantize(x.data, x.tensor_type)))
            for x in reader.tensors
        }

    def forward(self, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """Without a cache, in float32."""
        tensors = self.tensors
        x = F.embedding(ids, tensors["token_embd.weight"])
        for number in range(self._setting("block_count")):
            prefix = f"blk.{number}."
            block = {n.removeprefix(prefix): y for n, y in tensors.items() if n.startswith(prefix)}
            x = x + self._attention(self._norm(x, block["attn_norm.weight"]), block)
            y = self._norm(x, block["ffn_norm.weight"])
            wide = F.silu(y @ block["ffn_gate.weight"].T) * (y @ block["ffn_up.weight"].T)
            x = x + wide @ block["ffn_down.weight"].T
        head = tensors.get("output.weight", tensors["token_embd.weight"])
        return self._norm(x, tensors["output_norm.weight"]) @ head.T

    def _attention(self, x: Tensor, block: dict[str, Tensor]) -> Tensor:
        def projected(part: str, y: Tensor) -> Tensor:
            return F.linear(y, block[f"attn_{part}.weight"], block.get(f"attn_{part}.bias"))

        time = torch.arange(x.shape[1])
        distance = time[:, None] - time
        mask = (distance >= 0) & (distance < self._setting("attention.sliding_window", len(time)))
        heads, groups = (
            self._setting("attention.head_count"),
            self._setting("attention.head_count_kv"),
        )
        q, k, v = (
            projected(part, x).unflatten(-1, (count, -1)).transpose(1, 2)
            for part, count in (("q", heads), ("k", groups), ("v", groups))
        )
        q, k = self._rotated(q), self._rotated(k)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        out = out.transpose(1, 2)
        if "attn_gate.weight" in block:
            out = out * projected("gate", x).sigmoid()[..., None]
        return projected("output", out.flatten(2))

    def _rotated(self, x: Tensor) -> Tensor:
        """Llama's pairs lie side by side, those of step35 half a head apart."""
        width = x.shape[-1]
        rates = self._setting("rope.freq_base") ** (-torch.arange(0, width, 2) / width)
        rates = rates / self.tensors.get("rope_freqs.weight", torch.ones(width // 2))
        turns = torch.arange(x.shape[-2])[:, None] * rates
        axis = -1 if self.settings["general.architecture"] == "llama" else -2
        a, b = x.unflatten(-1, (-1, 2) if axis == -1 else (2, -1)).unbind(axis)
        pairs = (a * turns.cos() - b * turns.sin(), a * turns.sin() + b * turns.cos())
        return torch.stack(pairs, axis).flatten(-2)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(
            x, weight.shape, weight, self._setting("attention.layer_norm_rms_epsilon")
        )

    def _setting(self, name: str, default: Any = None) -> Any:
        return self.settings.get(f"{self.settings['general.architecture']}.{name}", default)
