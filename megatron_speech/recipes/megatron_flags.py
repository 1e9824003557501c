"""Flags of Megatron-LM's pretrain_gpt.py that tools/pretrain.py has not, and what becomes of them.

The one table of them, for plans and rehearsals of runs, too. How to read its answers:
docs/training.md#coming-from-megatron-lm.
"""

from ..cli import ForeignFlag

_DENSE = "the models here are dense, with plain attention: drop it"
_FUSIONS = "kernels are fused where what is installed can (model/precision.py)"
_LOGGED = "losses, learning rate, norms, rates and memory are always logged"
_STEPS = "training is counted in steps: give"
_VOCAB = (
    "give --vocab FOLDER, which says it; tools/build_vocab.py --tokenizer makes one of a tokenizer"
)
_FP16 = "it belongs to fp16: give --bf16"
_WHOLE = (
    "checkpoints are whole; tools/convert_checkpoint.py megatron-to-hf exports the weights alone: "
    "drop it"
)
_RECOMPUTE = "give --recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
_OPTIMIZER_SHARDS = "give --use-distributed-optimizer, which divides the optimizer's state"


def _taken(says: str, values: int = 0, only: str = "") -> ForeignFlag:
    return ForeignFlag(says=says, values=values, only=tuple(only.split()))


def _means(instead: str, values: int = 0) -> ForeignFlag:
    return ForeignFlag(says=f"give {instead}", values=values, instead=tuple(instead.split()))


def _refused(says: str, values: int = 0) -> ForeignFlag:
    return ForeignFlag(says=says, values=values, taken=False)


_MODEL = {
    "use-mcore-models": _taken("always so"),
    "swiglu": _taken("always so"),
    "disable-bias-linear": _taken("always so, but for --add-qkv-bias"),
    "group-query-attention": _taken("always so, in --num-query-groups"),
    "normalization": _taken("always RMSNorm", 1, "RMSNorm"),
    "position-embedding-type": _taken("always rope", 1, "rope"),
    "use-rotary-position-embeddings": _taken("always so"),
    "no-position-embedding": _taken("always so"),
    "use-rope-scaling": _refused("give --rope-scaling-factor 8.0, Megatron's default"),
    "layernorm-epsilon": _means("--norm-epsilon", 1),
    "attention-softmax-in-fp32": _taken("always so"),
    "squared-relu": _refused("the models here have SwiGLU: drop it"),
    "apply-layernorm-1p": _refused(
        "it belongs to LayerNorm; the models here have RMSNorm: drop it"
    ),
    "apply-query-key-layer-scaling": _refused(_FP16),
    "num-experts": _refused(_DENSE, 1),
    "moe-*": _refused(_DENSE, 1),
    "expert-*": _refused(_DENSE, 1),
    "multi-latent-attention": _refused(_DENSE),
    "mtp-num-layers": _refused("one token is predicted at a time: drop it", 1),
}
_DATA = {
    "tokenizer-type": ForeignFlag(
        says="the vocabulary folder says what it is",
        values=1,
        only=("HuggingFaceTokenizer", "SentencePieceTokenizer", "Llama2Tokenizer"),
        otherwise=_VOCAB,
    ),
    "tokenizer-model": _refused(_VOCAB, 1),
    "vocab-file": _refused(_VOCAB, 1),
    "merge-file": _refused(_VOCAB, 1),
    "vocab-size": _refused(_VOCAB, 1),
    "padded-vocab-size": _refused(_VOCAB, 1),
    "make-vocab-size-divisible-by": _taken("always a multiple of 1,024, for every layout", 1),
    "dataloader-type": _taken("always single: a step's data follows from its number", 1, "single"),
    "num-workers": _taken("a thread reads the next micro-batch ahead", 1),
    "no-create-attention-mask-in-dataloader": _taken("always so"),
    "no-mmap-bin-files": _refused(".bin files are mapped into memory: drop it"),
    "reset-position-ids": _refused("give --reset-attention-mask, which does both"),
    "eod-mask-loss": _refused(
        "give --reset-attention-mask: then nothing predicts across the end of a document"
    ),
}
_SCHEDULE = {
    "train-samples": _refused(f"{_STEPS} --train-iters, samples / --global-batch-size", 1),
    "lr-decay-samples": _refused(f"{_STEPS} --lr-decay-iters, samples / --global-batch-size", 1),
    "lr-warmup-samples": _refused(f"{_STEPS} --lr-warmup-iters, samples / --global-batch-size", 1),
    "lr-warmup-fraction": _refused(
        f"{_STEPS} --lr-warmup-iters, the fraction of --lr-decay-iters (or --train-iters)", 1
    ),
    "rampup-batch-size": _refused("give --step-batch-size-schedule '0:64 1B:128 10B:256'", 3),
    "decoupled-lr": _refused("all weights have one learning rate: drop it", 1),
    "decoupled-min-lr": _refused("all weights have one learning rate: drop it", 1),
    "optimizer": _taken("always adam, with decoupled weight decay", 1, "adam"),
    "calculate-per-token-loss": _taken("always so"),
}
_COMPUTING = {
    "recompute-activations": _means("--recompute-granularity selective"),
    "checkpoint-activations": _refused(_RECOMPUTE),
    "activations-checkpoint-method": _refused(_RECOMPUTE, 1),
    "use-flash-attn": _means("--attention-backend flash"),
    "fp8-hybrid": _means("--fp8-format hybrid"),
    "fp8-e4m3": _means("--fp8-format e4m3"),
    "fp16": _refused("give --bf16"),
    "loss-scale": _refused(_FP16, 1),
    "initial-loss-scale": _refused(_FP16, 1),
    "min-loss-scale": _refused(_FP16, 1),
    "loss-scale-window": _refused(_FP16, 1),
    "hysteresis": _refused(_FP16, 1),
    "accumulate-allreduce-grads-in-fp32": _taken("always so, but for --grad-reduce-in-bf16"),
    "no-masked-softmax-fusion": _taken(_FUSIONS),
    "no-gradient-accumulation-fusion": _taken(_FUSIONS),
    "no-bias-gelu-fusion": _taken(_FUSIONS),
    "no-bias-swiglu-fusion": _taken(_FUSIONS),
    "no-bias-dropout-fusion": _taken(_FUSIONS),
    "no-rope-fusion": _taken(_FUSIONS),
    "no-persist-layer-norm": _taken(_FUSIONS),
    "cross-entropy-loss-fusion": _taken("always so, but for --no-cross-entropy-loss-fusion"),
    "distributed-backend": _taken("always nccl on GPUs, gloo without", 1, "nccl"),
    "num-layers-per-virtual-pipeline-stage": _refused(
        "give --num-virtual-stages-per-pipeline-rank, layers of a pipeline stage / this number", 1
    ),
    "use-tp-pp-dp-mapping": _refused("ranks are numbered tp-cp-dp-pp: drop it"),
    "use-megatron-fsdp": _refused(_OPTIMIZER_SHARDS),
    "use-torch-fsdp2": _refused(_OPTIMIZER_SHARDS),
    "data-parallel-sharding-strategy": _refused(_OPTIMIZER_SHARDS, 1),
    "deterministic-mode": _refused("it is not offered: drop it"),
    "empty-unused-memory-level": _taken("memory is kept: expandable segments leave few gaps", 1),
    "rerun-mode": _refused(
        "bad steps are repeated, and --bad-step-policy says what follows: drop it", 1
    ),
    "no-check-for-nan-in-loss-and-grad": _refused(
        "each step is checked; --bad-step-policy says what follows: drop it"
    ),
}
_RUN = {
    "finetune": _refused(
        "give --pretrained-checkpoint FOLDER in place of --load: weights alone, from step 0"
    ),
    "no-load-rng": _refused(
        "drop it: random state belongs to the optimizer's, and --no-load-optim takes neither"
    ),
    "no-save-optim": _refused(_WHOLE),
    "no-save-rng": _refused(_WHOLE),
    "ckpt-format": _taken("always torch_dist", 1, "torch_dist"),
    "auto-detect-ckpt-format": _taken("always torch_dist"),
    "use-dist-ckpt": _taken("always so"),
    "use-checkpoint-args": _taken("--pretrained-checkpoint and a run that goes on say their shape"),
    "exit-on-missing-checkpoint": _taken("always so"),
    "use-persistent-ckpt-worker": _taken("--async-save decides"),
    "save-retain-interval": _refused("give --keep-last, a number of checkpoints", 1),
    "exit-signal-handler": _taken("always so"),
    "tensorboard-dir": _taken("scalars are written to the --save folder", 1),
    "tensorboard-log-interval": _taken("--log-interval counts for both", 1),
    "tensorboard-queue-size": _taken(_LOGGED, 1),
    "wandb-entity": _refused("set WANDB_ENTITY in the environment", 1),
    "wandb-save-dir": _refused("set WANDB_DIR in the environment", 1),
    "timing-log-level": _taken(_LOGGED, 1),
    "timing-log-option": _taken(_LOGGED, 1),
    "log-throughput": _taken(_LOGGED),
    "log-progress": _taken(_LOGGED),
    "log-params-norm": _refused("norms of gradients are logged, those of weights not: drop it"),
    "log-num-zeros-in-grad": _refused("norms of gradients are logged, zeros not: drop it"),
    "log-*-to-tensorboard": _taken(_LOGGED),
}
PRETRAIN_FLAGS = {**_MODEL, **_DATA, **_SCHEDULE, **_COMPUTING, **_RUN}
"""By name without dashes; `*` stands for any part of it."""
PLAN_FLAGS = {
    **{name: flag for name, flag in PRETRAIN_FLAGS.items() if name != "padded-vocab-size"},
    "recompute-activations": _taken("--recompute decides, or the search for a layout"),
    "checkpoint-activations": _refused("give --recompute full"),
    "activations-checkpoint-method": _refused("give --recompute full", 1),
}
"""A plan is made before there is a vocabulary, and chooses what is recomputed if it is not told."""
