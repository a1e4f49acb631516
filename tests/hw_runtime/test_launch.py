"""Arguments reach a kernel in the width it declares; a GPU is not needed to see that."""

import numpy as np
import pytest
import torch

from hw_runtime.compile import families, inline, signatures
from hw_runtime.launch import open_kernels, pack
from ultraep_sim.errors import InputError


def test_numbers_get_the_declared_width_and_tensors_their_address():
    tensor = torch.zeros(3)
    packed = pack(
        ["const float* a", "int n", "u32 m", "i64 k", "u64 b", "int* none"],
        (tensor, -2, 2**32 - 1, 2**40, 2**63, None),
    )
    assert packed[0] == tensor.data_ptr()
    assert packed[-1] == 0
    assert [type(one) for one in packed[1:5]] == [np.int32, np.uint32, np.int64, np.uint64]
    assert [int(one) for one in packed[1:5]] == [-2, 2**32 - 1, 2**40, 2**63]


def test_wrong_arguments_are_refused_before_the_kernel_sees_them():
    with pytest.raises(TypeError, match="1 arguments for a kernel that takes 2"):
        pack(["int a", "int b"], (1,))
    with pytest.raises(OverflowError):
        pack(["int a"], (2**31,))


def test_cuda_core_takes_what_is_packed():
    handler = pytest.importorskip("cuda.core._kernel_arg_handler", reason="no cuda-core here")
    handler.ParamHolder(pack(["u8* a", "int n", "u32 m", "i64 k", "u64 b"], (None, 1, 2, 3, 4)))


@pytest.mark.parametrize("family", ["histogram", "planner", "reroute"])
def test_every_argument_has_a_known_type(family):
    assert family in families()
    for declared in signatures(inline(family)).values():
        for kind in declared:
            assert "*" in kind or kind.split()[0] in ("int", "u32", "i64", "u64")


def test_the_cpu_has_no_kernels():
    assert open_kernels("planner", torch.device("cpu")) is None
    with pytest.raises(InputError, match="no such backend"):
        open_kernels("planner", torch.device("meta"))
