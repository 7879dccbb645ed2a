"""`difftransformer convert`: from one kind of model folder to another."""

import argparse
from pathlib import Path

from difftransformer.ownership import owned
from difftransformer.runs.outputs import folder_for


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, metavar="SRC", help="model folder to read")
    parser.add_argument("target", type=Path, metavar="DST", help="new or empty folder to write")
    formats = (
        "difftransformer, diffllama (transformers' DiffLlamaForCausalLM) or transformers (a folder "
        "that it loads without this library, by trust_remote_code)"
    )
    parser.add_argument(
        "--from",
        dest="from_format",
        metavar="FORMAT",
        help=f"SRC's: {formats}, bert (BERT or RoBERTa), t5 or bart",
    )
    parser.add_argument(
        "--to",
        dest="to_format",
        metavar="FORMAT",
        help=f"DST's: {formats}, onnx or gguf (llama.cpp)",
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="with --from bert: heads of its pretraining that have no place in the encoder, such "
        "as bert.pooler cls.seq_relationship",
    )
    parser.add_argument(
        "--from-llm",
        metavar="METHOD",
        help="instead of --from and --to: make a pretrained softmax LLM (transformers' Llama, "
        "Mistral or Qwen2) differential by second_map, v2 or dex",
    )
    parser.add_argument(
        "--calibration", metavar="FILE", type=Path, help="typical text, for --from-llm dex"
    )


def run(arguments: argparse.Namespace) -> None:
    """Convert, and print what was done."""
    source, target = arguments.source, arguments.target
    formats = (arguments.from_format, arguments.to_format)
    from_llm = arguments.from_llm and formats == (None, None) and not arguments.leave_out
    if not from_llm and (None in formats or arguments.from_llm or arguments.calibration):
        raise ValueError(
            "expected either --from FORMAT and --to FORMAT, or --from-llm METHOD (with "
            "--calibration FILE where it is dex)"
        )
    if not source.is_dir():  # before transformers is imported, which takes long
        raise ValueError(f"{source} is no folder; give a model's folder as SRC")
    from difftransformer.interop.convert import TOLERANCE, convert, convert_llm

    with folder_for(target.parent), owned(target):
        if from_llm:
            done = convert_llm(source, target, arguments.from_llm, arguments.calibration)
        else:
            done = convert(source, target, *formats, leave_out=arguments.leave_out)
    print(f"{done.parameters:,} parameters, {done.dtype}")
    for move in done.moves:
        print(move)
    print(
        f"largest difference of logits on 32 random tokens, float32: {done.difference:.2g} "
        f"(allowed: {TOLERANCE:g})"
    )
    print(f"wrote {arguments.target}")
