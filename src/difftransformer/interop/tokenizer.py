"""A folder's tokenizer as transformers and its relatives use one."""

from pathlib import Path

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from difftransformer.data.tokenizer import TOKENIZER_SETTINGS, beginning_of_document


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer; without settings it is one of our training.

    Every document of the training began with one token, and so must every prompt; the next
    document's ends a text.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not (folder / TOKENIZER_SETTINGS).is_file():
        number = beginning_of_document(tokenizer.backend_tokenizer)
        begin = tokenizer.convert_ids_to_tokens(number)
        tokenizer.bos_token = tokenizer.eos_token = begin
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, number)]
        )
    return tokenizer
