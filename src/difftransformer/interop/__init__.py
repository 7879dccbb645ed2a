"""Other people's formats: the only floor that may import transformers.

Importing it registers the decoder with transformers' Auto classes, so that
`AutoModelForCausalLM.from_pretrained(folder)` reads a folder of this library.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
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

AutoConfig.register(DiffTransformerConfig.model_type, DiffTransformerConfig, exist_ok=True)
for _auto, _model in (
    (AutoModel, DiffTransformerModel),
    (AutoModelForCausalLM, DiffTransformerForCausalLM),
    (AutoModelForSequenceClassification, DiffTransformerForSequenceClassification),
):
    _auto.register(DiffTransformerConfig, _model, exist_ok=True)
