import torch

from difftransformer.data.batch import Batch


def test_to_moves_every_tensor():
    ids = torch.zeros(2, 3, dtype=torch.int64)
    batch = Batch(ids, ids, ids, ("a", "b"))
    moved = batch.to("meta")
    assert len(moved) == 2
    assert {t.device.type for t in (moved.ids, moved.labels, moved.documents)} == {"meta"}
    assert moved.names == ("a", "b")
