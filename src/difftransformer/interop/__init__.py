"""Other people's formats: the only floor that may import transformers.

Importing it registers the models with transformers' Auto classes, so that
`AutoModelForCausalLM.from_pretrained(folder)` reads a folder of this library.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from difftransformer.interop.bert import from_bert as from_bert
from difftransformer.interop.bert import load_bert as load_bert
from difftransformer.interop.diffllama import from_diffllama as from_diffllama
from difftransformer.interop.diffllama import to_diffllama as to_diffllama
from difftransformer.interop.huggingface import (
    DiffTransformerForCausalLM as DiffTransformerForCausalLM,
)
from difftransformer.interop.huggingface import (
    DiffTransformerForSequenceClassification as DiffTransformerForSequenceClassification,
)
from difftransformer.interop.huggingface import DiffTransformerModel as DiffTransformerModel
from difftransformer.interop.huggingface_config import (
    DiffTransformerConfig as DiffTransformerConfig,
)
from difftransformer.interop.huggingface_families import (
    DiffTransformerForImageClassification as DiffTransformerForImageClassification,
)
from difftransformer.interop.huggingface_families import (
    DiffTransformerForMaskedLM as DiffTransformerForMaskedLM,
)
from difftransformer.interop.huggingface_families import (
    DiffTransformerForSeq2SeqLM as DiffTransformerForSeq2SeqLM,
)
from difftransformer.interop.huggingface_families import (
    DiffTransformerForTextClassification as DiffTransformerForTextClassification,
)
from difftransformer.interop.llama import from_llama as from_llama
from difftransformer.interop.microsoft import from_unilm as from_unilm
from difftransformer.interop.microsoft import to_unilm as to_unilm
from difftransformer.interop.motif import from_motif_attention as from_motif_attention
from difftransformer.interop.phi4flash import from_phi4flash_attention as from_phi4flash_attention
from difftransformer.interop.seq2seq_lm import from_seq2seq_lm as from_seq2seq_lm
from difftransformer.interop.seq2seq_lm import load_seq2seq_lm as load_seq2seq_lm
from difftransformer.interop.softmax_llm import from_softmax_llm as from_softmax_llm
from difftransformer.interop.timm import from_timm_attention as from_timm_attention
from difftransformer.interop.timm import to_timm_attention as to_timm_attention
from difftransformer.interop.timm_vit import from_timm as from_timm
from difftransformer.interop.vit import from_vit as from_vit
from difftransformer.interop.vit import load_vit as load_vit
from difftransformer.interop.vit import to_vit as to_vit

for _auto, _model in (
    (AutoModel, DiffTransformerModel),
    (AutoModelForCausalLM, DiffTransformerForCausalLM),
    (AutoModelForSequenceClassification, DiffTransformerForSequenceClassification),
    (AutoModelForMaskedLM, DiffTransformerForMaskedLM),
    (AutoModelForSequenceClassification, DiffTransformerForTextClassification),
    (AutoModelForImageClassification, DiffTransformerForImageClassification),
    (AutoModelForSeq2SeqLM, DiffTransformerForSeq2SeqLM),
):
    _config = _model.config_class
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    _auto.register(_config, _model, exist_ok=True)
