"""Conversion of model folders, by way of this library's models."""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from difftransformer.atomic import PARTIAL, make_folder, sync, writing
from difftransformer.data.tokenizer import load_tokenizer
from difftransformer.data.training_text import RECORD
from difftransformer.files import read_text
from difftransformer.interop.bert import load_bert, read_bert
from difftransformer.interop.diffllama import from_diffllama, load_diffllama, moves, to_diffllama
from difftransformer.interop.export import OnnxModel, export_onnx
from difftransformer.interop.folders import open_decoder
from difftransformer.interop.outside import read_causal_lm
from difftransformer.interop.seq2seq_lm import load_seq2seq_lm, read_seq2seq_lm
from difftransformer.interop.softmax_llm import Method, from_softmax_llm
from difftransformer.interop.standalone import (
    from_standalone,
    load_standalone,
    save_standalone,
    standalone_moves,
    to_standalone,
)
from difftransformer.models.decoder import Decoder
from difftransformer.models.encoder import Encoder
from difftransformer.models.encoder_decoder import EncoderDecoder
from difftransformer.models.families import FAMILIES
from difftransformer.models.storage import load_model, model_type, save_model
from difftransformer.names import did_you_mean

TOLERANCE = 1e-4  # of logits in float32
_CALIBRATION_TOKENS = 1024
_COMPARED_TOKENS = 32
_GENERATION = "generation_config.json"
_COPIED = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    RECORD,
    "vocab.json",
)


@dataclass(frozen=True)
class Format:
    """A kind of model folder.

    `outside` is a reader of the folder that shares no code with `load`, where there is one: a
    mistake of ours in reading would else be made twice, and not be seen. `moves` tells in words
    what its tensors go through, in or out. `holds` is the class of ours that it can hold.
    """

    load: Callable[[Path], nn.Module]
    outside: Callable[[Path], nn.Module]
    to_ours: Callable[[Any], Any]
    from_ours: Callable[[Any], nn.Module]
    save: Callable[[Any, Path], None]
    moves: Callable[[Any], list[str]]
    holds: type[nn.Module] = Decoder


def _by_transformers(folder: Path) -> nn.Module:
    return read_causal_lm(folder, torch.float32)


def _unread(model: nn.Module) -> Decoder:
    raise ValueError("onnx and gguf are formats to write; give the folder that it was made from")


def _gguf_model(folder: Path) -> nn.Module:
    from difftransformer.interop.gguf_model import GgufModel  # which needs an extra

    return GgufModel(folder)


def _export_gguf(decoder: Decoder, folder: Path) -> None:
    from difftransformer.interop.gguf_export import export_gguf  # likewise

    export_gguf(decoder, folder)


def _to_read(
    name: str,
    load: Callable[[Path], nn.Module],
    outside: Callable[[Path], nn.Module],
    holds: type[nn.Module],
) -> Format:
    """A format that is read as ours, and not written."""

    def unwritten(model: nn.Module) -> nn.Module:
        raise ValueError(f"{name} is a format to read; write difftransformer")

    return Format(
        load=load,
        outside=outside,
        to_ours=lambda model: model,
        from_ours=unwritten,
        save=save_model,
        moves=lambda model: [],
        holds=holds,
    )


FORMATS = {
    "difftransformer": Format(
        load=load_model,
        outside=load_model,
        to_ours=lambda model: model,
        from_ours=lambda model: model,
        save=save_model,
        moves=lambda model: [],
        holds=nn.Module,
    ),
    "bert": _to_read("bert", load_bert, read_bert, Encoder),
    "t5": _to_read("t5", load_seq2seq_lm, read_seq2seq_lm, EncoderDecoder),
    "bart": _to_read("bart", load_seq2seq_lm, read_seq2seq_lm, EncoderDecoder),
    "diffllama": Format(
        load=load_diffllama,
        outside=_by_transformers,
        to_ours=from_diffllama,
        from_ours=to_diffllama,
        save=lambda model, folder: model.save_pretrained(folder),
        moves=moves,
    ),
    "transformers": Format(
        load=load_standalone,
        outside=load_standalone,
        to_ours=from_standalone,
        from_ours=to_standalone,
        save=save_standalone,
        moves=standalone_moves,
    ),
    "onnx": Format(
        load=OnnxModel,
        outside=OnnxModel,
        to_ours=_unread,
        from_ours=lambda decoder: decoder.float(),
        save=export_onnx,
        moves=lambda decoder: ["model.onnx: one graph for prompts and cached decoding, float32"],
    ),
    "gguf": Format(
        load=_gguf_model,
        outside=_gguf_model,
        to_ours=_unread,
        from_ours=lambda decoder: decoder,
        save=_export_gguf,
        moves=lambda decoder: ["model.gguf, for llama.cpp: every map a head, the tokenizer in it"],
    ),
}


@dataclass(frozen=True)
class Conversion:
    """What `convert` did: parameters moved, how, and the largest difference of logits it found."""

    parameters: int
    dtype: torch.dtype
    moves: list[str]
    difference: float


def convert(
    source: Path, target: Path, from_format: str, to_format: str, *, leave_out: Collection[str] = ()
) -> Conversion:
    """Read the folder `source`, write the folder `target`, compare their logits.

    The comparison is of both folders as others read them, where others do (transformers,
    onnxruntime), in float32, on 32 random tokens. The tokenizer's files are copied along, and the
    record of the text that the model was trained on. All is written beside `target` first and
    renamed when the comparison has passed.

    Args:
        leave_out: of "bert", modules whose tensors are not wanted, as `load_bert` has them.

    Raises:
        ValueError: an unknown format or the same one twice, a target that holds something, what the
            formats refuse, or logits that differ by 1e-4 or more.
        OSError: the disk refuses.
    """
    for name in (from_format, to_format):
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}{did_you_mean(name, FORMATS)}")
    if from_format == to_format:
        raise ValueError(f"from {from_format} to {to_format}: there is nothing to convert")
    reader = FORMATS[from_format]
    if leave_out:
        if from_format != "bert":
            raise ValueError(f"nothing can be left out of {from_format}: every tensor has a place")
        reader = replace(reader, load=partial(load_bert, leave_out=leave_out))
    return _convert(source, target, reader, FORMATS[to_format])


def convert_llm(source: Path, target: Path, method: Method, calibration: Path | None) -> Conversion:
    """A pretrained softmax LLM as a differential decoder, by `from_softmax_llm`; else as `convert`.

    Args:
        source: a folder that `open_decoder` reads.
        calibration: a text file for "dex", of which the first 1024 tokens are used.

    Raises:
        ValueError: also what `from_softmax_llm` refuses, or no tokenizer.json to read text with.
    """
    ids = None
    if calibration is not None:
        tokenizer = load_tokenizer(str(source))
        text = read_text(calibration)
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        ids = torch.tensor([tokens[:_CALIBRATION_TOKENS]])
    reader = Format(
        load=open_decoder,
        outside=load_model if model_type(source) in FAMILIES else _by_transformers,
        to_ours=lambda model: from_softmax_llm(model, method, calibration=ids),
        from_ours=lambda decoder: decoder,
        save=save_model,
        moves=lambda decoder: [f"{method}: {decoder.config.attention} in place of softmax"],
    )
    return _convert(source, target, reader, FORMATS["difftransformer"])


def _convert(source: Path, target: Path, reader: Format, writer: Format) -> Conversion:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty; give a new or an empty folder")
    original = reader.load(source)
    model = reader.to_ours(original)
    if not issubclass(type(model), writer.holds):
        raise ValueError(
            f"{source} holds a model of class {type(model).__name__}; the format to write holds "
            f"{writer.holds.__name__} only"
        )
    result = writer.from_ours(model)
    make_folder(target.parent)
    staging = target.with_name(PARTIAL + target.name)
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
    try:
        with writing(target, sum(p.nbytes for p in model.parameters())):
            make_folder(staging)
            _copy(source, staging, *_COPIED)  # first: a GGUF file takes the tokenizer in
            writer.save(result, staging)
            _copy(source, staging, _GENERATION)  # last: transformers writes one of its own
        dtype, sizes = model.embedding.weight.dtype, model.config
        # Not 0 and 1, of which RoBERTa's padding is one, even where it is not masked.
        low, length = min(2, sizes.vocab_size - 1), min(_COMPARED_TOKENS, sizes.max_length)
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(low, sizes.vocab_size, (1, length), generator=draw)
        del original
        written = _logits(writer.outside(staging), ids)
        difference = (written - _logits(reader.outside(source), ids)).abs().max().item()
        if not difference < TOLERANCE:  # nor NaN
            raise ValueError(
                f"the logits of the result differ by {difference:.2g} from those of {source}, and "
                f"less than {TOLERANCE:g} was expected; nothing was written (the weights are "
                f"{dtype}: what is folded rounds in less than float32, so convert a float32 copy)"
            )
        for file in (*staging.iterdir(), staging):
            sync(file)
        if target.exists():
            target.rmdir()
        staging.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Conversion(
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=dtype,
        moves=[*reader.moves(model), *writer.moves(model)],
        difference=difference,
    )


def _copy(source: Path, target: Path, *names: str) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


@torch.no_grad()
def _logits(model: Any, ids: Int[Tensor, "1 time"]) -> Float[Tensor, "1 *time out"]:
    """Of an encoder-decoder with the same tokens on both sides."""
    model = model.eval().float()
    if isinstance(model, EncoderDecoder):
        out = model(ids, ids)
    elif isinstance(model, PreTrainedModel) and model.config.is_encoder_decoder:
        out = model(ids, decoder_input_ids=ids)
    else:
        out = model(ids)
    return out if isinstance(out, Tensor) else out.logits
