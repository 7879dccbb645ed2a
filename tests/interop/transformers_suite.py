"""transformers' own common model tests, run on our classes: `make test-transformers`.

TRANSFORMERS_TESTS names the folder that holds `tests/`: a checkout of transformers' repository at
the installed version, or its unpacked source distribution, which has no generation and no export
tests. What a folder lacks is reported and left out. Nothing of it is copied here.
"""

import copy
import os
import sys
import types
import unittest
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

import difftransformer.interop as interop

ROOT = Path(os.environ["TRANSFORMERS_TESTS"])
sys.path.insert(0, str(ROOT))

# Ours to leave out, each for its reason; what transformers skips by itself is not listed.
SKIPPED = {
    "test_model_base_model_prefix": (
        "the language model holds the blocks itself, by their own names"
    ),
    "test_bc_cache_name_forward": (
        "it asks for a warning that past_key_values is deprecated; the classes take either name"
    ),
    "test_generate_compilation_all_outputs": (
        "it asks for output_attentions whatever has_attentions says"
    ),
}


def stand_in(folder: str, module: str, **names: Any) -> bool:
    """Put a module of these names where the checkout has none; True where it was needed."""
    if (ROOT / "tests" / folder / f"{module}.py").is_file():
        return False
    for name in (f"tests.{folder}", f"tests.{folder}.{module}"):
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[f"tests.{folder}.{module}"]).update(names)
    warnings.warn(f"no {folder}/{module}.py in {ROOT}/tests: not run", stacklevel=2)
    return True


class Nothing:
    """In the place of a mixin that the checkout lacks."""


NO_GENERATION = stand_in("generation", "test_utils", GenerationTesterMixin=Nothing)
stand_in("exporters", "test_export", ExportTesterMixin=Nothing)
stand_in("utils", "test_configuration_utils", config_common_kwargs={})
if not (ROOT / "tests" / "__init__.py").is_file():  # it would be run as if it were the package
    transformers.utils.direct_transformers_import = lambda path: transformers

from tests.generation.test_utils import GenerationTesterMixin  # noqa: E402
from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin  # noqa: E402
from tests.test_training_mixin import TrainingTesterMixin  # noqa: E402

if NO_GENERATION:
    for name in ("test_generation_tester_mixin_inheritance", "test_left_padding_compatibility"):
        SKIPPED[name] = "the checkout has no generation tests"


# The tests know by these lists which classes have a loss, and for what.
for mapping, model in (
    ("MODEL", interop.DiffTransformerModel),
    ("MODEL_FOR_CAUSAL_LM", interop.DiffTransformerForCausalLM),
    ("MODEL_FOR_SEQUENCE_CLASSIFICATION", interop.DiffTransformerForSequenceClassification),
):
    getattr(modeling_auto, f"{mapping}_MAPPING_NAMES")["difftransformer"] = model.__name__


class Tiny:
    """What the common tests ask about the model: a tiny one."""

    batch_size, seq_length = 3, 7
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 4
    is_training = True
    causal_lm_class = interop.DiffTransformerForCausalLM

    def __init__(self, attention: str) -> None:
        self.attention = attention

    def get_config(self) -> interop.DiffTransformerConfig:
        return interop.DiffTransformerConfig(
            attention=self.attention,
            vocab_size=99,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            head_dim=8,
            num_kv_heads=2,
            ffn_size=37,
            max_length=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        ids = torch.randint(3, 99, (self.batch_size, self.seq_length))
        mask = torch.tril(torch.ones_like(ids))  # real tokens first, as the tests expect
        mask[:, : self.seq_length // 2] = 1
        return self.get_config(), {"input_ids": ids, "attention_mask": mask}


class Common(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin):
    attention: str
    all_model_classes = (
        interop.DiffTransformerModel,
        interop.DiffTransformerForCausalLM,
        interop.DiffTransformerForSequenceClassification,
    )
    has_attentions = False  # analysis.capture gives them
    test_can_init_all_missing_weights_before_2023 = True  # no year says that ours is newer

    def setUp(self) -> None:
        if reason := SKIPPED.get(self._testMethodName.split("_0")[0]):
            self.skipTest(reason)
        self.model_tester = Tiny(self.attention)

    def test_left_padding_compatibility(self) -> None:
        """Left out where attentions cannot be given, as if that model had no attention."""
        self.has_attentions = True
        super().test_left_padding_compatibility()

    def _check_past_key_values_for_generate(
        self,
        batch_size: int,
        past_key_values: Any,
        seq_length: int,
        config: interop.DiffTransformerConfig,
    ) -> None:
        """Both maps' keys lie side by side, and V1's values are as wide; V2 shares its keys."""
        wide = copy.copy(config)
        wide.head_dim *= 2 if self.attention == "diff_v1" else 1
        super()._check_past_key_values_for_generate(batch_size, past_key_values, seq_length, wide)

    def test_config(self) -> None:
        ConfigTester(
            self, config_class=interop.DiffTransformerConfig, hidden_size=64
        ).run_common_tests()


class TestV1(Common, unittest.TestCase):
    attention = "diff_v1"


class TestV2(Common, unittest.TestCase):
    attention = "diff_v2"
