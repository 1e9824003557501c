"""Settings of the layout: how a model is divided over processes, and what is recomputed."""

import os
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError, flag, require_within
from .installed import Installed, installed

_RECOMPUTABLE = ("core_attn", "mlp")
_OFFLOADABLE = ("attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How the model and the batch are divided over processes, and what is recomputed."""

    tensor_model_parallel_size: int = 1
    """Processes that share each weight matrix."""
    pipeline_model_parallel_size: int = 1
    """Pipeline stages the layers are divided into."""
    num_virtual_stages_per_pipeline_rank: int = 1
    """Model chunks per stage (interleaved schedule)."""
    context_parallel_size: int = 1
    """Processes that share each sequence; needs Transformer Engine on GPUs."""
    sequence_parallel: bool = False
    """Divide norms and dropout over the tensor-parallel processes as well."""
    tp_comm_overlap: bool = False
    """Overlap tensor-parallel communication with the products beside it (Transformer Engine's
    userbuffers; needs sequence parallelism)."""
    use_distributed_optimizer: bool = False
    """Divide optimizer state over the data-parallel processes."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass is running."""
    overlap_param_gather: bool = False
    """Gather parameters while the forward pass is running (distributed optimizer only)."""
    grad_reduce_in_bf16: bool = False
    """Keep and reduce the gradients of bf16 weights in bf16: half the memory, coarser sums."""
    ddp_bucket_size: int | None = None
    """Parameters in one bucket of gradients; core's choice if not given."""
    recompute_granularity: Literal["full", "selective"] | None = None
    """Recompute activations in the backward pass: whole layers, or some modules of each."""
    recompute_method: Literal["uniform", "block"] | None = None
    """Which layers a full recomputation takes."""
    recompute_num_layers: int | None = None
    """Layers per recomputed unit (uniform) or per stage (block)."""
    recompute_modules: tuple[Literal["core_attn", "mlp"], ...] = ()
    """Modules a selective recomputation takes; core_attn if not given."""
    distribute_saved_activations: bool = False
    """Divide what a full recomputation keeps over the tensor-parallel processes."""
    cpu_offloading_num_layers: int = 0
    """Layers whose activations wait in the memory of the CPU (Transformer Engine)."""
    offload_modules: tuple[
        Literal["attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm"], ...
    ] = ()
    """Modules of every layer whose inputs wait in the memory of the CPU (Transformer Engine)."""
    distributed_timeout_minutes: int = 30
    """Minutes after which a collective that does not end is an error."""

    def __post_init__(self) -> None:
        require_within(
            self,
            1,
            "tensor_model_parallel_size",
            "pipeline_model_parallel_size",
            "num_virtual_stages_per_pipeline_rank",
            "context_parallel_size",
            "distributed_timeout_minutes",
            "ddp_bucket_size",
        )
        self._check_division()
        self._check_recomputation()
        self._check_offloading()

    def _check_division(self) -> None:
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            raise ConfigError(
                "--sequence-parallel needs --tensor-model-parallel-size of at least 2; "
                "drop it or raise the tensor parallel size"
            )
        if self.tp_comm_overlap and not self.sequence_parallel:
            raise ConfigError(
                "--tp-comm-overlap needs --sequence-parallel (and --tensor-model-parallel-size of "
                "at least 2): what it hides is the gathering and scattering of the divided stream"
            )
        if self.num_virtual_stages_per_pipeline_rank > 1 and self.pipeline_model_parallel_size == 1:
            raise ConfigError(
                "--num-virtual-stages-per-pipeline-rank needs --pipeline-model-parallel-size of "
                "at least 2"
            )
        if self.overlap_param_gather and not (
            self.use_distributed_optimizer and self.overlap_grad_reduce
        ):
            raise ConfigError(
                "--overlap-param-gather needs --use-distributed-optimizer and --overlap-grad-reduce"
            )

    def _check_recomputation(self) -> None:
        full = self.recompute_granularity == "full"
        selective = self.recompute_granularity == "selective"
        if full and not (self.recompute_method and self.recompute_num_layers):
            raise ConfigError(
                "--recompute-granularity full needs --recompute-method and --recompute-num-layers"
            )
        if not full and (self.recompute_method or self.recompute_num_layers is not None):
            raise ConfigError(
                "--recompute-method and --recompute-num-layers belong to --recompute-granularity "
                f"full, which is {self.recompute_granularity}; drop them or set it"
            )
        if full:
            require_within(self, 1, "recompute_num_layers")
        if self.recompute_modules and not selective:
            raise ConfigError(
                "--recompute-modules belongs to --recompute-granularity selective, which is "
                f"{self.recompute_granularity}; drop it or set it"
            )
        _check_known("recompute_modules", self.recompute_modules, _RECOMPUTABLE)
        if self.distribute_saved_activations and not full:
            raise ConfigError(
                "--distribute-saved-activations belongs to --recompute-granularity full; drop it"
            )
        if self.distribute_saved_activations and self.tensor_model_parallel_size == 1:
            raise ConfigError(
                "--distribute-saved-activations needs --tensor-model-parallel-size of at least 2"
            )
        if self.distribute_saved_activations and self.sequence_parallel:
            raise ConfigError(
                "--distribute-saved-activations and --sequence-parallel exclude each other (the "
                "latter divides activations already); drop one"
            )

    def _check_offloading(self) -> None:
        layers, modules = self.cpu_offloading_num_layers, self.offload_modules
        if layers < 0:
            raise ConfigError(f"--cpu-offloading-num-layers is {layers}; give 0 or more")
        _check_known("offload_modules", modules, _OFFLOADABLE)
        if layers and modules:
            raise ConfigError(
                "--cpu-offloading-num-layers and --offload-modules exclude each other"
            )
        if layers and self.pipeline_model_parallel_size > 1:
            raise ConfigError(
                "--cpu-offloading-num-layers needs --pipeline-model-parallel-size 1; with "
                "pipeline stages use --offload-modules"
            )
        if layers and self.recompute_granularity is not None:
            raise ConfigError(
                "--cpu-offloading-num-layers and --recompute-granularity exclude each other"
            )
        if "attn_proj" in modules and "core_attn" not in modules:
            raise ConfigError(
                "--offload-modules attn_proj needs core_attn beside it: the input of the one is "
                "the output of the other"
            )

    @property
    def model_parallel_size(self) -> int:
        """Processes that hold one replica of the model."""
        return (
            self.tensor_model_parallel_size
            * self.pipeline_model_parallel_size
            * self.context_parallel_size
        )

    def data_parallel_size(self, world_size: int) -> int:
        """Replicas of the model among `world_size` processes.

        Raises:
            ConfigError: the processes cannot be divided into whole replicas.
        """
        if world_size % self.model_parallel_size:
            raise ConfigError(
                f"{world_size} processes cannot be divided into replicas of "
                f"{self.model_parallel_size} (tensor {self.tensor_model_parallel_size} x pipeline "
                f"{self.pipeline_model_parallel_size} x context {self.context_parallel_size}); "
                "change --tensor-model-parallel-size, --pipeline-model-parallel-size or the "
                "number of processes (torchrun --nproc-per-node)"
            )
        return world_size // self.model_parallel_size

    def check_machine(self, here: Installed | None = None) -> None:
        """Refuse what this machine lacks the GPU or the packages for.

        Raises:
            ConfigError: names the setting and what is missing.
        """
        here = here or installed()
        wanted = {
            "context_parallel_size": self.context_parallel_size > 1,
            "tp_comm_overlap": self.tp_comm_overlap,
            "cpu_offloading_num_layers": self.cpu_offloading_num_layers > 0,
            "offload_modules": bool(self.offload_modules),
        }
        for name in (name for name, asked in wanted.items() if asked):
            if not here.has_transformer_engine:
                asked_for = flag(name) + _shown(getattr(self, name))
                raise ConfigError(
                    f"{asked_for} needs GPUs with Transformer Engine; drop it here, or install "
                    "the extra [gpu] on a machine with GPUs"
                )
        if self.offload_modules and os.environ.get("NVTE_CPU_OFFLOAD_V1") != "1":
            raise ConfigError(
                "--offload-modules needs NVTE_CPU_OFFLOAD_V1=1 in the environment: otherwise "
                "Transformer Engine would offload weights as well"
            )


def _check_known(name: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(f"{flag(name)} {' '.join(unknown)} is unknown; choose of {known}")


def _shown(value: object) -> str:
    """What follows a flag; nothing for one that is bare."""
    if value is True:
        return ""
    return " " + (" ".join(map(str, value)) if isinstance(value, tuple) else str(value))


def check_documents(parallel: ParallelConfig, separate_documents: bool) -> None:
    """Refuse documents kept apart in attention where sequences are divided over processes.

    Raises:
        ConfigError: names the setting to change.
    """
    if separate_documents and parallel.context_parallel_size > 1:
        raise ConfigError(
            "documents cannot be kept apart under --context-parallel-size above 1; use "
            "datasets of packing 'cut' without --reset-attention-mask, or set it to 1"
        )
