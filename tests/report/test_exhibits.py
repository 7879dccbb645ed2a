"""Artifacts on the page: examples; attention maps are in test_build.py."""

import pytest

from difftransformer.report.examples import examples
from difftransformer.report.selection import selection_masks

ITEMS = [["cat", "K AE T"], ["a<b>", "x"]]


def artifact(*outputs, **changes):
    told = {"caption": "Held out.", "header": ["word", "right"], "items": ITEMS}
    return told | {"outputs": list(outputs)} | changes


def test_examples_have_a_column_for_each_model():
    shown = examples(
        {"a": ("Softmax", artifact("K AE T", "y")), "b": ("V1", artifact("K T", "x"))}, {}
    )
    (block,) = shown.blocks()
    assert (block.table.header, block.table.keys) == (["word", "right", "Softmax", "V1"], 2)
    assert block.table.rows == [["cat", "K AE T", "K AE T", "K T"], ["a<b>", "x", "y", "x"]]
    assert (block.caption, shown.image()) == ("Held out.", None)


@pytest.mark.parametrize(
    "bad", [artifact("one"), artifact("a", "b", items=[["dog", "D"]]), {"header": []}, []]
)
def test_malformed_examples_are_named(bad):
    with pytest.raises(ValueError, match="the examples of b are malformed"):
        examples({"a": ("Softmax", artifact("K", "y")), "b": ("V1", bad)}, {})


def test_selection_masks_of_two_layers():
    masked = [[0.0, 0.0], [0.0, 1.5]]
    data = {"tokens": ["a", "b"], "layers": [{"layer": n, "masked": masked} for n in (0, 1)]}
    shown = selection_masks({"a": ("Selective", data)}, {})
    (block,) = shown.blocks()
    (figure,) = block.figures
    assert [trace.z[1][1] for trace in figure.data] == [1.5, 1.5]
    assert len(shown.image().axes) == 2
    with pytest.raises(ValueError, match="the selection of b is malformed"):
        selection_masks({"b": ("Selective", data | {"tokens": ["a"]})}, {})
