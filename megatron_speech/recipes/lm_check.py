"""Settings of a run that cannot work together, refused before any process group starts."""

from ..data.config import parse_blend
from ..data.indexed_files import read_facts
from ..errors import ConfigError
from ..model.families import get_family
from ..model.precision import check_fp8, check_graphs, choose
from ..training.installed import Installed
from ..training.parallel_config import check_documents
from .lm_recipes import LMConfig


def check_settings(
    config: LMConfig, padded_vocab_size: int, world_size: int, here: Installed
) -> None:
    """Hold model, layout, batch, schedule and precision against each other and the machine.

    Raises:
        ConfigError: names the setting to change.
    """
    parallel, batch, seq_length = config.parallel, config.batch, config.data.seq_length
    parallel.check_machine(here)
    replicas = parallel.data_parallel_size(world_size)
    config.model.check_layout(parallel, seq_length, padded_vocab_size)
    choose(config.precision, here, padded_vocab_size)
    if parallel.tp_comm_overlap and config.precision.transformer_impl == "local":
        raise ConfigError(
            "--tp-comm-overlap is Transformer Engine's; drop it or --transformer-impl local"
        )
    if parallel.grad_reduce_in_bf16 and not config.precision.bf16:
        raise ConfigError("--grad-reduce-in-bf16 belongs to --bf16; drop it or set both")
    tokens = batch.micro_batch_size * seq_length // parallel.context_parallel_size
    check_fp8(config.precision, config.model, parallel, tokens, here)
    batch.schedule(seq_length)
    batch.check_division(replicas, parallel)
    batch.check_schedule(config.loop.train_iters)
    config.loop.check()
    check_documents(parallel, config.data.reset_attention_mask)
    check_graphs(config.precision, config.model, parallel, config.data.reset_attention_mask)
    _check_optimizer(config, here)
    _check_lora(config)


def _check_optimizer(config: LMConfig, here: Installed) -> None:
    """Hold the types of the optimizer's tensors against what core's kernel for them takes."""
    batch, parallel = config.batch, config.parallel
    if not batch.use_precision_aware_optimizer:
        return
    needs = ""
    if not parallel.use_distributed_optimizer:
        needs = "needs --use-distributed-optimizer; set it or drop both"
    elif not config.precision.bf16:
        needs = "needs --bf16: it is about what is kept beside bf16 weights; set it or drop both"
    elif not here.has_transformer_engine:
        needs = "needs Transformer Engine's optimizer and a GPU; drop it here"
    if needs:
        raise ConfigError(f"--use-precision-aware-optimizer {needs}")
    if (batch.main_grads_dtype == "bf16") != parallel.grad_reduce_in_bf16:
        raise ConfigError(
            f"--main-grads-dtype {batch.main_grads_dtype} and --grad-reduce-in-bf16 "
            f"{parallel.grad_reduce_in_bf16} disagree: gradients are read as they are reduced; set "
            "both or none"
        )
    fp8 = config.precision.fp8_format is not None and config.precision.fp8_recipe != "delayed"
    if fp8 and batch.main_params_dtype == "fp16":
        raise ConfigError(
            f"--main-params-dtype fp16 does not work with --fp8-recipe "
            f"{config.precision.fp8_recipe}, whose weights core keeps itself; use fp32 or delayed"
        )


def _check_lora(config: LMConfig) -> None:
    rank, precision = config.lora.lora_rank, config.precision
    if rank is None:
        return
    get_family(config.model)  # its layout says which layers adapters are of
    for refused, what in (
        (
            config.base.pretrained_checkpoint is None,
            "needs --pretrained-checkpoint: the model that stays as it is; give it",
        ),
        (
            precision.fp8_param_gather,
            "does not work with --fp8-param-gather, which is about weights that are trained; drop "
            "one of them",
        ),
        (
            precision.cuda_graph_impl != "none",
            "does not work with --cuda-graph-impl: layers are recorded without their adapters; "
            "drop one of them",
        ),
    ):
        if refused:
            raise ConfigError(f"--lora-rank {rank} {what}")


def check_packing(config: LMConfig) -> None:
    """Refuse datasets that are packed as whole documents where sequences are divided, or kernels
    recorded.

    Raises:
        ConfigError: names the setting to change.
        DataError: a dataset is missing or damaged.
    """
    graphs = config.precision.cuda_graph_impl != "none"
    if config.data.mock_data or (config.parallel.context_parallel_size == 1 and not graphs):
        return
    prefixes, _ = parse_blend(config.data.data_path, "--data-path")
    whole = any(read_facts(prefix).packing == "whole" for prefix in prefixes)
    check_documents(config.parallel, whole)
    check_graphs(config.precision, config.model, config.parallel, whole)
