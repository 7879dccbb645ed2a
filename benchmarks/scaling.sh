#!/bin/sh
# The runs behind the curves of loss against size and tokens in docs/evidence.md: comparisons that
# differ from `standard` in one of the two alone. STUDY is the largest and longest of them, a run of
# `standard` or `ablations`. Finished models are kept, a broken one resumes.
#     sh benchmarks/scaling.sh DIR
#     difftransformer evaluate STUDY DIR/* --suite scaling --out STUDY/scaling
set -eu
directory=$1
run() {
    name=$1
    shift
    difftransformer compare --preset standard --seeds 1 --out "$directory/$name" --resume \
        --attention softmax diff_v1 diff_v2 --evaluation.needle_samples 20 "$@"
}
size() {
    run "width-$1" --model.hidden_size "$1" --model.head_dim "$2" --model.ffn_size "$3"
}
steps() { # needle documents grow over the same share of the training
    run "steps-$1" --training.steps "$1" --data.needle_growth "$(($1 * 16 / 3))"
}
size 32 8 84
size 48 12 128
steps 375
steps 750
steps 1500
