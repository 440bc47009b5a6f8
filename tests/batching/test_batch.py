"""Tensors of a micro-batch go to a device together."""

import torch

from rmexp.batching.batch import in_one_copy
from rmexp.batching.collate import BatchLayout, Collate
from tests.helpers.toys import toy_row


def test_one_copy_has_the_values_shapes_and_types_of_each_tensor():
    row = toy_row([[1, 2, 3], [1, 4]], margins=[0.5], ratings=[1.0, 2.0])
    (batch,) = Collate(0, 100, BatchLayout("tree"))([row]).batches
    tensors = {name: v for name, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    tensors |= {"bytes": torch.tensor([1, 2, 3], dtype=torch.uint8), "one": torch.tensor(2.0)}
    assert not all(tensor.numel() for tensor in tensors.values())
    moved = in_one_copy(tensors, "cpu")
    assert moved.keys() == tensors.keys()
    assert len({one.untyped_storage().data_ptr() for one in moved.values() if one.numel()}) == 1
    for name, tensor in tensors.items():
        torch.testing.assert_close(moved[name], tensor, rtol=0, atol=0, equal_nan=True)
