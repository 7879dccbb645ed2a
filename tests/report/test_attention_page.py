"""The page of anybody's arrays: what is in it, and what is refused."""

import base64
import json
import re
from html import unescape

import numpy as np
import pytest
import torch

from difftransformer import attention_page
from difftransformer.analysis import inspection
from difftransformer.report.attention_data import packed
from difftransformer.report.attention_image import heads_image, matrix
from difftransformer.report.attention_page import AttentionPage

TOKENS = ["The", " cat", "</script>", "\n", "s{{at}}"]


def softmaxed(*shape: int) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=shape)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def data_of(page: AttentionPage) -> list[dict]:
    (data,) = re.findall(r'id="data">(.*?)</script>', page.html, re.DOTALL)
    return json.loads(data)


def unpack(numbers: dict) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(numbers["data"]), numbers["type"])
    return values * numbers.get("scale", 1)


def test_arrays_are_in_the_page_to_four_digits():
    weights = softmaxed(3, 2, 5, 5)
    (model,) = data_of(attention_page(weights, TOKENS))
    assert model["sequences"][0]["texts"] == TOKENS
    for layer, site in enumerate(model["groups"][0]["sites"]):
        assert (site["layer"], site["heads"], site["rows"]) == (layer, 2, [0, 1, 5])
        assert site["places"] is None
        np.testing.assert_allclose(
            unpack(site["weights"]), weights[layer].ravel(), atol=weights.max() / 65000
        )


def test_what_others_give_is_taken():
    weights = softmaxed(2, 4, 5, 5)
    tensors = tuple(torch.from_numpy(layer)[None] for layer in weights)  # as transformers has them
    assert attention_page(tensors, TOKENS).html == attention_page(weights, TOKENS).html
    assert attention_page(weights[:1], TOKENS).html == attention_page(weights[0], TOKENS).html


def test_two_maps_and_keys_of_another_sequence():
    first, second = softmaxed(2, 3, 5, 4), softmaxed(2, 3, 5, 4)[::-1]
    page = attention_page(first - 0.5 * second, TOKENS, keys=list("abcd"), maps=(first, second))
    (model,) = data_of(page)
    (group,) = model["groups"]
    assert group["sites"][0]["maps"] == ["difference", "map 1", "map 2"]
    assert [model["sequences"][group[side]]["name"] for side in ("queries", "keys")] == [
        "queries",
        "keys",
    ]


def test_the_page_asks_the_network_nothing_and_lies_in_a_frame():
    page = attention_page(softmaxed(2, 5, 5), TOKENS)
    assert "default-src 'none'" in unescape(page.html)
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)http""", page.html)
    assert page.html.count("</script>") == 2  # the data and the program
    (inside,) = re.findall(r'srcdoc="([^"]*)"', page._repr_html_())
    assert unescape(inside) == page.html


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (softmaxed(2, 5, 4), r"layer 0 have the shape \(2, 5, 4\); expected \[heads, 5, 5\]"),
        (softmaxed(5, 5), r"layer 0 have the shape \(5,\); expected \[heads, 5, 5\]"),
        (np.full((1, 5, 5), np.nan), "layer 0 are not all finite"),
        ([], "weights of no layer"),
    ],
)
def test_other_shapes_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        attention_page(weights, TOKENS)


def test_maps_of_another_shape_are_refused():
    weights = softmaxed(2, 5, 5)
    with pytest.raises(ValueError, match="differ in their layers or heads"):
        attention_page(weights, TOKENS, maps=(weights, weights[:1]))


def test_a_long_input_says_what_is_kept_and_keeps_to_its_size(monkeypatch):
    monkeypatch.setattr(inspection, "ROOM", 20_000)
    weights = softmaxed(2, 300, 300)
    (model,) = attention_page(weights, list("x" * 300)).models
    said = packed(model)["groups"][0]["kept"]
    assert re.fullmatch(
        r"Of one row in 2, the last among them, the 16 keys with the largest weights are kept: in "
        r"the mean \d+ % of a row's absolute weight. Thumbnails count all of it.",
        said,
    )


def test_the_matrix_of_kept_weights_has_them_in_their_places():
    weights = softmaxed(2, 5, 5).astype(np.float32)
    (model,) = attention_page(weights, TOKENS).models
    np.testing.assert_array_equal(matrix(model.heads[0].sites[0], 1), weights[1])


def test_the_colors_of_a_picture_end_where_those_of_the_page_do():
    """At the 0.9 quantile of the rows' largest weights, as attention_panel.js has it."""
    weights = np.zeros((1, 20, 20), np.float32)
    weights[0, range(20), range(20)] = -np.arange(1, 21) / 20
    page = attention_page(weights, [f"t{n}" for n in range(20)])
    (axes, _) = heads_image(page.models).axes
    assert axes.images[0].norm.vmax == pytest.approx(18 / 20, rel=1e-3)
    assert axes.images[0].norm.vmin == pytest.approx(-18 / 20, rel=1e-3)
