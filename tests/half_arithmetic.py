"""fp16 on a CPU, quickly: what is heavy computes in fp32 on fp16 values and rounds its result, as tensor cores do."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_ATEN = torch.ops.aten
HEAVY = {
    _ATEN.convolution.default,
    _ATEN.mm.default,
    _ATEN.bmm.default,
    _ATEN.mean.dim,
    _ATEN.upsample_bilinear2d.default,
    _ATEN.upsample_bilinear2d.vec,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
}
"""torch's own fp16 kernels of these are up to a hundred times slower on a CPU."""


class HalfArithmetic(TorchDispatchMode):
    """In its block, operators of `HEAVY` with an fp16 operand are emulated."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = []

        def widened(x):
            found.append(x.dtype == torch.float16)
            return x.float() if found[-1] else x

        if func not in HEAVY:
            return func(*args, **kwargs)
        result = func(*tree_map_only(torch.Tensor, widened, args), **tree_map_only(torch.Tensor, widened, kwargs))
        return tree_map_only(torch.Tensor, torch.Tensor.half, result) if any(found) else result
