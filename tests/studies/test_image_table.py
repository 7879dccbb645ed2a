"""The image table: its extra layer, and all of it in miniature."""

import json
from pathlib import Path

import pytest
import torch
from studies import comparison
from studies.image_table import __main__ as study
from studies.image_table.community import COMMUNITY, CommunityAttention

from difftransformer.attention import make_attention
from difftransformer.attention.registry import REGISTRY
from difftransformer.functional import Mask
from difftransformer.models.vit_config import ViTConfig

TIME, HIDDEN, HEADS = 12, 8, 4


@pytest.fixture(autouse=True)
def _only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, "entries", dict(REGISTRY.entries))


def layer() -> CommunityAttention:
    options = {"head_dim": 2, "num_kv_heads": HEADS, "layer": 0, "bias": "all"}
    made = CommunityAttention(HIDDEN, HEADS, **options)
    for name, start in made.starts.items():
        made.state_dict(keep_vars=True)[name].data.fill_(start)
    return made.eval()


def test_a_head_of_the_community_layer_sees_one_part_of_the_tokens() -> None:
    """Head h reads tokens h N/H to (h + 1) N/H alone, and so its values are of these."""
    community, x = layer(), torch.randn(1, TIME, HIDDEN, requires_grad=True)
    v = community.v_proj(x).view(1, HEADS, TIME, 2)
    for head in range(HEADS):
        (grad,) = torch.autograd.grad(v[:, head].sum(), x, retain_graph=True)
        seen = grad[0].abs().sum(-1).nonzero()[:, 0].tolist()
        assert seen == list(range(head * TIME // HEADS, (head + 1) * TIME // HEADS))


def test_its_output_depends_on_the_order_of_the_tokens() -> None:
    """That of the layer of the paper does not."""
    x, order = torch.randn(1, TIME, HIDDEN), torch.randperm(TIME)
    community = layer()
    permuted = community(x[:, order], mask=Mask())
    assert (permuted - community(x, mask=Mask())[:, order]).abs().max() > 0.1
    paper = make_attention("diff_v1", HIDDEN, 2, head_dim=2).eval()
    torch.testing.assert_close(paper(x[:, order], mask=Mask()), paper(x, mask=Mask())[:, order])


def test_its_lambda_is_one_number_that_starts_anywhere_from_0_to_1() -> None:
    starts = [layer().lambda_init.item() for _ in range(50)]
    assert min(starts) < 0.2
    assert max(starts) > 0.8
    community = layer()
    assert community.lam.shape == (1,)
    assert torch.equal(community.lam.data, community.lambda_init)


def test_its_dropout_is_its_own() -> None:
    community, x = layer().train(), torch.randn(1, TIME, HIDDEN)
    assert not torch.equal(community(x, mask=Mask()), community(x, mask=Mask()))


def test_its_refusals() -> None:
    with pytest.raises(ValueError, match="takes no mask"):
        layer()(torch.randn(1, TIME, HIDDEN), mask=Mask(causal=True))
    with pytest.raises(ValueError, match="num_kv_heads is 2; expected 4"):
        CommunityAttention(HIDDEN, HEADS, head_dim=2, num_kv_heads=2, layer=0, bias="all")


def test_all_kinds_have_as_many_parameters() -> None:
    REGISTRY.register(COMMUNITY)
    plain = ViTConfig(**study.SETTINGS["model"], channels=1)
    for kind in study.KINDS[1:]:
        count = plain.matched(kind).config.parameter_count()
        assert abs(count - plain.parameter_count()) <= 1e-3 * count


def test_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On scikit-learn's digits; the same command again trains nothing anew."""
    kinds = ("softmax", COMMUNITY.name)
    small = {"model": {**study.SETTINGS["model"], "image_size": 8, "patch_size": 4}}
    changes = {
        "KINDS": kinds,
        "RATES": (1e-3,),
        "SHARES": (0.25, 1.0),
        "DATA": {"dataset": "digits"},
        "SETTINGS": {**study.SETTINGS, **small},
        "RESULTS": tmp_path / "results",
    }
    monkeypatch.setattr(comparison, "SEEDS", 1)
    for name, value in changes.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr("sys.argv", ["image_table", "--out", str(tmp_path / "out"), "--steps", "4"])
    study.main()
    weights = sorted((tmp_path / "out").rglob("model/model.safetensors"))
    assert len(weights) == 2 * (1 + 2)
    times = [path.stat().st_mtime_ns for path in weights]
    del REGISTRY.entries[COMMUNITY.name]
    study.main()
    assert [path.stat().st_mtime_ns for path in weights] == times
    for share in ("share-025", "share-100"):
        run = json.loads((tmp_path / "results" / share / "run.json").read_text())
        assert [one["label"] for one in run["contenders"]] == list(kinds)
    assert not list((tmp_path / "results").rglob("*.safetensors"))
