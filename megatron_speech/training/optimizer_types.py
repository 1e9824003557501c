"""In which types the optimizer keeps its tensors, in Megatron's names."""

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError, flag

_SIZES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}


@dataclass(frozen=True, kw_only=True)
class OptimizerTypes:
    """Types of the optimizer's tensors; all fp32 without the precision-aware optimizer."""

    use_precision_aware_optimizer: bool = False
    """Keep the optimizer's tensors in the types below (Transformer Engine; the distributed
    optimizer). Of fp32 weights it keeps the 16 bits that bf16 ones lack."""
    main_grads_dtype: Literal["fp32", "bf16"] = "fp32"
    """Gradients that the optimizer reads; bf16 goes with --grad-reduce-in-bf16."""
    main_params_dtype: Literal["fp32", "fp16"] = "fp32"
    """Weights that the optimizer updates."""
    exp_avg_dtype: Literal["fp32", "fp16", "bf16", "fp8"] = "fp32"
    """First moments."""
    exp_avg_sq_dtype: Literal["fp32", "fp16", "bf16", "fp8"] = "fp32"
    """Second moments."""

    def __post_init__(self) -> None:
        if self.use_precision_aware_optimizer:
            return
        for name, value in self.optimizer_types.items():
            if value != "fp32":
                raise ConfigError(
                    f"{flag(name)} {value} belongs to --use-precision-aware-optimizer; set both or "
                    "drop it"
                )

    @property
    def optimizer_types(self) -> dict[str, str]:
        """By core's names."""
        names = ("main_grads_dtype", "main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype")
        return {name: getattr(self, name) for name in names}

    def optimizer_bytes(self, bf16: bool, whole_weights: bool = True) -> int:
        """What the optimizer keeps of a parameter: moments, and fp32 weights beside bf16 ones.

        The precision-aware one keeps two bytes of these, unless it needs `whole_weights` (FP8).
        """
        moments = _SIZES[self.exp_avg_dtype] + _SIZES[self.exp_avg_sq_dtype]
        part = self.use_precision_aware_optimizer and not whole_weights
        return moments + bf16 * (2 if part else 4)
