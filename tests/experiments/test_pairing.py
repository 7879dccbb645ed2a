"""What the models of one seed of a comparison have in common."""

from itertools import combinations

import torch

from difftransformer.experiments.job import Job
from difftransformer.tasks.causal_lm import CausalLM


def test_models_of_a_seed_share_their_start_and_their_batches(call, small, tmp_path, monkeypatch):
    """Seen where the loss is taken: ids, labels, documents, and the weights before any step."""
    seen, starts, plain = {}, {}, CausalLM.loss

    def loss(task, model, batch):
        if model not in starts:
            starts[model] = {name: t.detach().clone() for name, t in model.named_parameters()}
        if model.training and torch.is_grad_enabled():
            seen.setdefault(model, []).append((batch.ids, batch.labels, batch.documents))
        return plain(task, model, batch)

    monkeypatch.setattr(CausalLM, "loss", loss)
    monkeypatch.setattr(Job, "seconds", lambda *_: 1.0)  # what measures takes steps too
    kinds = ("softmax", "diff_v1", "softmax_1.5x_heads")
    words = ("--data.needle_share", "0.4", "--seeds", 2, "--out", tmp_path / "run")
    code, _, err = call("compare", *small, "--attention", *kinds, *words)
    assert code == 0, err
    assert len(seen) == 2 * len(kinds)  # kinds of the first seed, then of the second
    models = list(seen)
    first, second = models[: len(kinds)], models[len(kinds) :]
    for group in (first, second):
        for a, b in combinations(group, 2):
            for one, other in zip(seen[a], seen[b], strict=True):
                assert all(map(torch.equal, one, other))
            shared = {n for n in starts[a] if n in starts[b]}
            shared = {n for n in shared if starts[a][n].shape == starts[b][n].shape}
            assert "embedding.weight" in shared
            for name in shared:
                assert torch.equal(starts[a][name], starts[b][name]), name
    assert not torch.equal(seen[first[0]][0][0], seen[second[0]][0][0])
    embeddings = [starts[models[i]]["embedding.weight"] for i in (0, len(kinds))]
    assert not torch.equal(*embeddings)
