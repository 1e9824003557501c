"""A plugin for pytest: Triton's interpreter without its faults."""

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter


@pytest.fixture(autouse=True, scope="module")
def sound_interpreter():
    """Mend what Triton 3.6's interpreter gets wrong: loop bounds (arrays of one element, which
    numpy 2.4 no longer converts) and bf16, which it neither rounds to even nor reads if denormal.
    """
    patch, convert = interpreter._patch_lang_tensor, interpreter._convert_float

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def converted(values, source, target, rounding):
        if (source, target) == (tl.bfloat16, tl.float32):
            return values.view(np.uint16).astype(np.uint32) << 16
        if (source, target) == (tl.float32, tl.bfloat16):
            tensor = torch.from_numpy(np.ascontiguousarray(values).view(np.float32))
            return tensor.bfloat16().view(torch.uint16).numpy()
        return convert(values, source, target, rounding)

    interpreter._patch_lang_tensor, interpreter._convert_float = patched, converted
    yield
    interpreter._patch_lang_tensor, interpreter._convert_float = patch, convert
