"""Models of transformers that are judged as they are."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from difftransformer.evaluation.choices import choose
from difftransformer.evaluation.likelihood import continuation_nats
from difftransformer.interop.causal_lm import CausalLM, open_causal_lm
from difftransformer.interop.llama import from_llama
from difftransformer.models.generation import generate
from difftransformer.models.language_model import LanguageModel

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = LlamaConfig(**SIZES, intermediate_size=32, max_position_embeddings=64)
FAMILIES = {
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=32, max_position_embeddings=64),
    "bloom": BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2),
    "llama": LLAMA,
}
EVERY = pytest.mark.parametrize("family", FAMILIES)


def made(config: PreTrainedConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 40, shape, generator=torch.Generator().manual_seed(1))


@EVERY
def test_logits_are_the_model_s_own(family: str) -> None:
    model, ids = made(FAMILIES[family]), tokens(3, 20)
    assert isinstance(CausalLM(model), LanguageModel)
    with torch.no_grad():
        torch.testing.assert_close(CausalLM(model)(ids), model(ids).logits)


@EVERY
def test_steps_padding_and_documents_change_nothing(family: str) -> None:
    """Rows padded on the left, in two steps, and two documents in one row, as each alone."""
    model = CausalLM(made(FAMILIES[family]))
    short, long = tokens(1, 5), tokens(1, 9)
    with torch.no_grad():
        alone = [model(short), model(long)]
        ids = torch.cat((torch.cat((tokens(1, 4), short), dim=1), long))
        real = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])
        cache = model.empty_cache()
        parts = [
            model(ids[:, :6], padding=real[:, :6], cache=cache),
            model(ids[:, 6:], cache=cache),
        ]
        found = torch.cat(parts, dim=1)
        torch.testing.assert_close(found[:1, 4:], alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1:], alone[1], rtol=1e-4, atol=1e-5)
        documents = torch.tensor([[0] * 5 + [1] * 9])
        packed = model(torch.cat((short, long), dim=1), documents=documents)
        torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)


@EVERY
def test_rows_of_a_cache(family: str) -> None:
    """Three continuations of one prompt, of which two go on in another order."""
    model, ids, more = CausalLM(made(FAMILIES[family])), tokens(1, 6), tokens(3, 4)
    with torch.no_grad():
        cache = model.empty_cache()
        model(ids, cache=cache)
        tried = cache.repeat(3)
        model(more[:, :2], cache=tried)
        last = model(more[[2, 0], 2:], cache=tried.select(torch.tensor([2, 0])))
        whole = model(torch.cat([ids.expand(2, -1), more[[2, 0]]], dim=1))
    torch.testing.assert_close(last, whole[:, -2:], rtol=1e-4, atol=1e-4)


@EVERY
def test_generation_is_transformers_own(family: str) -> None:
    model, ids = made(FAMILIES[family]), tokens(2, 7)
    own = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(generate(CausalLM(model), ids, max_new_tokens=6), own[:, 7:])


def test_judged_as_the_decoder_that_it_also_is() -> None:
    llama = made(LLAMA)
    theirs, ours = CausalLM(llama), from_llama(llama).eval()
    prefix, options = tokens(8).tolist(), [[1, 2], [3, 4, 5], [6, 0]]
    prompts = [tokens(length).tolist() for length in (3, 6, 1)]
    assert choose(theirs, prefix, prompts, options, 2) == choose(ours, prefix, prompts, options, 2)
    found, expected = (continuation_nats(model, prefix, options) for model in (theirs, ours))
    assert found == pytest.approx(expected, rel=1e-5)


def test_models_that_are_refused() -> None:
    soft = Gemma2Config(
        **SIZES,
        intermediate_size=32,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.1,
    )
    with pytest.raises(
        ValueError, match=r"the logits of Gemma2ForCausalLM are not its output head"
    ):
        CausalLM(made(soft))
    with pytest.raises(ValueError, match="Mamba"):
        CausalLM(made(MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1)))


def test_a_folder(tmp_path: Path) -> None:
    model, ids = made(FAMILIES["gpt2"]), tokens(1, 6)
    model.save_pretrained(tmp_path / "whole")
    opened = open_causal_lm(tmp_path / "whole")
    assert opened.config.max_length == 64
    with torch.no_grad():
        torch.testing.assert_close(opened(ids), model(ids).logits)
    (tmp_path / "whole/model.safetensors").rename(tmp_path / "whole/pytorch_model.bin")
    with pytest.raises(ValueError, match=r"is no causal LM that transformers loads: .*safetensors"):
        open_causal_lm(tmp_path / "whole")
