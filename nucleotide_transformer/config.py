"""Frozen configurations, checked when they are built, and the table of released models."""

import dataclasses
import itertools
import math
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from nucleotide_transformer.errors import require, require_choices
from nucleotide_transformer.errors import require_positive as require_positive
from nucleotide_transformer.files import require_local
from nucleotide_transformer.optimizer_config import OptimizerConfig as OptimizerConfig
from nucleotide_transformer.token_ids import TokenIds
from nucleotide_transformer.types import Vocabulary

Dtype = Literal["float32", "bfloat16", "float16"]
ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Types of the activations; see model/platform.py for "auto"."""
Implementation = Literal["auto", "einsum", "per_head", "cudnn"]
"""Forms of the attention; see model/attention.py, and model/platform.py for "auto"."""
Remat = Literal["none", "block", "dots"]
"""What the backward pass computes again; see model/remat.py."""
Stack = Literal["loop", "scan"]
"""How the blocks follow each other; see model/stacking.py."""

MODEL_LIMITS = MappingProxyType(
    {
        "num_layers": 1_000,
        "embed_dim": 1 << 16,
        "ffn_dim": 1 << 18,
        "max_positions": 1 << 20,
        "layer_norm_epsilon": 1.0,
        "embed_scale": 1e6,
    }
)
"""Most that a model may have of each: far above any that exists. A file that asks for more is
refused before anything of that size is made."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(TokenIds):
    """What the network computes. The defaults are `100M_multi_species_v2`."""

    vocabulary: Vocabulary = "v2"
    """Token table: v1 has 4 special tokens before the k-mers, v2 has 6."""
    k: int = 6
    """Nucleotides in a k-mer token, 3 to 8."""
    num_layers: int = 22
    """Transformer blocks."""
    embed_dim: int = 512
    """Width of the embedding; a multiple of num_heads."""
    num_heads: int = 16
    """Attention heads of a block."""
    ffn_dim: int = 2048
    """Width of the feed-forward network (of each of its two halves if gated)."""
    ffn_activation: Literal["swish", "gelu"] = "swish"
    """swish is x * sigmoid(x); gelu is the exact one, with erf."""
    ffn_gated: bool = True
    """Multiply the activated half of the first projection with its other half (SwiGLU)."""
    ffn_bias: bool = False
    """Biases in the two feed-forward projections."""
    position: Literal["rotary", "learned"] = "rotary"
    """Rotary embedding of queries and keys, or a learned table added to the token embedding."""
    max_positions: int = 2048
    """Longest sequence that the model is meant for, in tokens, <cls> included, and the default
    window of inference. Learned positions end there; rotary models take longer sequences."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in every layer norm. Released JAX files mean 1e-5."""
    embed_scale: float = 1.0
    """Factor on the token embedding."""
    embed_layer_norm: bool = False
    """Layer norm before the first block."""
    token_dropout: bool = False
    """Zero the embedding of <mask> and rescale the rest, as ESM does (released v1 models)."""
    masking_ratio: float = 0.15
    """Share of tokens selected in pre-training; used by token_dropout alone."""
    masking_probability: float = 0.8
    """Share of the selected tokens replaced by <mask>; used by token_dropout alone."""
    token_tables: Literal["free", "letters", "pairs"] = "free"
    """What the rows of the two token tables are in training. free, as published: each its own.
    letters: the sum of its own, and of a vector for each letter at its place, which all tokens
    that spell it there share; pairs: also for each pair of neighbouring letters. Exported files
    hold the sums; see model/token_tables.py."""
    init: Literal["he_uniform", "truncated_normal"] = "he_uniform"
    """How parameters are drawn before training. he_uniform, as the published code: weights and
    biases of the four attention projections uniform with variance 2 / fan-in, for a bias 2 / width;
    both tables truncated normals of 1, all other weights of 1 / sqrt(fan-in), other biases 0.
    truncated_normal: attention's weights like all others, its biases 0, learned positions of
    0.02. (Haiku cuts a normal off at twice its deviation and does not rescale it: what is drawn has
    0.88 of the deviation, 0.774 of the variance.) Files of weights don't say it."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "num_layers", "embed_dim", "num_heads", "ffn_dim", "max_positions")
        require_positive(self, "layer_norm_epsilon", "embed_scale")
        for field, most in MODEL_LIMITS.items():
            require(
                getattr(self, field) <= most, field, getattr(self, field), f"must be at most {most}"
            )
        require(3 <= self.k <= 8, "k", self.k, "must lie between 3 and 8")
        rule = f"must be a multiple of num_heads = {self.num_heads}"
        require(self.embed_dim % self.num_heads == 0, "embed_dim", self.embed_dim, rule)
        rule = "the width of a head must be even for the rotary embedding"
        rotary = self.position == "rotary"
        require(not rotary or self.key_dim % 2 == 0, "embed_dim / num_heads", self.key_dim, rule)
        for field in ("masking_ratio", "masking_probability"):
            value = getattr(self, field)
            require(0 <= value < 1, field, value, "must lie in [0, 1)")

    @property
    def key_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def position_limit(self) -> int | None:
        """Tokens of the longest sequence that the model can take; None for rotary models."""
        return self.max_positions if self.position == "learned" else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Precision and implementation: they change speed, memory and rounding, not the model."""

    param_dtype: Dtype = "float32"
    """Parameters and optimiser state."""
    compute_dtype: ComputeDtype = "float32"
    """Activations and the factors of matrix products; their sums, norms, softmax, angles and losses
    stay in float32. auto is bfloat16 where the processor has units for it (CUDA since Ampere, TPU,
    CPUs with AMX), else float32."""
    output_dtype: Dtype = "float32"
    """Logits and saved embeddings."""
    attention: Implementation = "auto"
    """Form of the attention; auto is the fastest of the device."""
    stack: Stack = "scan"
    """scan: one compiled block, scanned over the layers. loop: every layer compiled by itself."""
    remat: Remat = "dots"
    """Activation checkpointing in training. none: keep everything. dots: keep results of matrix
    products and of attention, recompute the rest. block: keep block inputs only (least memory)."""

    def __post_init__(self) -> None:
        require_choices(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Masked-language-model corruption (Devlin et al. 2018, section 3.1)."""

    ratio: float = 0.15
    """Share of the maskable tokens of a sequence that are predicted: of each
    sequence exactly this share, rounded to a whole token."""
    mask_probability: float = 0.8
    """Of those, the share that become <mask>."""
    random_probability: float = 0.1
    """Of those, the share that become another nucleotide token; the rest stay as they are."""

    def __post_init__(self) -> None:
        require(0 < self.ratio < 1, "ratio", self.ratio, "must lie between 0 and 1")
        total = self.mask_probability + self.random_probability
        for field, other in itertools.permutations(("mask_probability", "random_probability")):
            value = getattr(self, field)
            rule = f"must be 0 or above, and with {other} = {getattr(self, other)} at most 1"
            require(value >= 0 and total <= 1, field, value, rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model reads."""

    corpus: Path = Path("runs/corpus")
    """Folder that `nt corpus build` made."""
    sequence_tokens: int = 1_000
    """Tokens of a training sequence, <cls> included. It starts within the overlap of a record if it
    fills a chunk of the corpus, and anywhere in the record if it is shorter."""
    temperature: float = 1.0
    """Species are drawn in proportion to size ** (1 / temperature): 1 as published."""
    reverse_complement: float = 0.0
    """Share of the training sequences that are read from the other strand, as the reverse
    complement of what the corpus holds: 0 as published. Held-out sequences never are."""
    num_threads: int = 2
    """Threads that prepare updates in advance, one update each."""
    num_readers: int = 16
    """Records read at a time, over all threads: more hide the delay of a network's file system."""
    num_buffered: int = 4
    """Updates read ahead, at most."""

    def __post_init__(self) -> None:
        require_local("corpus", self.corpus)
        require_positive(self, "num_threads", "num_readers", "num_buffered")
        require(
            self.sequence_tokens >= 2, "sequence_tokens", self.sequence_tokens, "must be 2 or above"
        )
        require(self.temperature >= 1, "temperature", self.temperature, "must be 1 or above")
        share = self.reverse_complement
        require(0 <= share <= 1, "reverse_complement", share, "must lie in [0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out evaluation on fixed chunks with fixed masks."""

    num_sequences: int = 256
    """Held-out chunks, spread over the validation split."""
    every_steps: int = 1_000
    """Evaluate every N updates, and at the end."""
    sequence_tokens: int | None = None
    """Tokens of a held-out sequence; by default as many as in training. With this and the ratio
    given, runs that train otherwise are compared on the same masked tokens."""
    masking_ratio: float | None = None
    """Share of the held-out tokens that are predicted; by default as in training."""

    def __post_init__(self) -> None:
        require_positive(self, "num_sequences", "every_steps")
        tokens, ratio = self.sequence_tokens, self.masking_ratio
        rule = "must be 2 or above, or none"
        require(tokens is None or tokens >= 2, "sequence_tokens", tokens, rule)
        rule = "must lie between 0 and 1, or be none"
        require(ratio is None or 0 < ratio < 1, "masking_ratio", ratio, rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run saves itself and what it keeps."""

    every_steps: int = 1_000
    """Save every N updates, and also at the end and on Ctrl-C."""
    keep: int = 3
    """Latest checkpoints kept, besides the one with the lowest held-out loss. Only a checkpoint of
    an update that was evaluated has one: every_steps of both should have a common multiple."""

    def __post_init__(self) -> None:
        require_positive(self, "every_steps", "keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pre-training run. The defaults are the published run of the 100M model."""

    output: Path = Path("runs/pretrain")
    """Folder for checkpoints, metrics and plots; a run found there is resumed."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data and the masks."""
    init_from: str | None = None
    """Weights to start from: a released model's name, a folder, or a run. By default they are
    random. A run that resumes has its own."""
    num_devices: int | None = None
    """Accelerators of this process to use; all by default."""
    distributed: bool = False
    """Set when several processes train together (jax.distributed); start one per host."""
    tokens_per_update: int = 1_000_000
    """Tokens of one update, over all devices and micro-batches."""
    sequences_per_device: int = 25
    """Most sequences of a micro-batch on one device: as many as fit its memory."""
    total_tokens: int = 300_000_000_000
    """Tokens of the whole run; rounded up to whole updates."""
    log_every_steps: int = 10
    """Updates between lines of metrics."""
    model: ModelConfig = ModelConfig()
    """Architecture."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and form of the computation."""
    data: DataConfig = DataConfig()
    """Input."""
    masking: MaskingConfig = MaskingConfig()
    """Masked-language-model corruption."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The rule of the updates and its schedule."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out evaluation."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints."""

    def __post_init__(self) -> None:
        require_local("output", self.output)
        require_positive(self, "tokens_per_update", "sequences_per_device", "total_tokens")
        require_positive(self, "log_every_steps")
        require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2**32)")
        rule = f"must be a multiple of data.sequence_tokens = {self.data.sequence_tokens}"
        divides = self.tokens_per_update % self.data.sequence_tokens == 0
        require(divides, "tokens_per_update", self.tokens_per_update, rule)
        rule = "must be fewer than 2**31 updates"
        require(self.total_steps < 2**31, "total_tokens", self.total_tokens, rule)
        rule = f"the learned positions end at model.max_positions = {self.model.max_positions}"
        limit = self.model.position_limit
        fits = limit is None or self.data.sequence_tokens <= limit
        require(fits, "data.sequence_tokens", self.data.sequence_tokens, rule)
        num_tokens = self.data.sequence_tokens
        rule = f"with masking.ratio = {self.masking.ratio} no token of a sequence would be masked"
        masked = round(self.masking.ratio * (num_tokens - 1))  # <cls> never is
        require(masked > 0, "data.sequence_tokens", num_tokens, rule)
        check_held_out(self)
        check_trainable(self.compute)
        check_token_dropout(self.model, self.masking)

    @property
    def held_out_tokens(self) -> int:
        """Tokens of a held-out sequence, `<cls>` included."""
        return self.evaluation.sequence_tokens or self.data.sequence_tokens

    @property
    def held_out_ratio(self) -> float:
        """Share of the tokens of a held-out sequence that are masked."""
        return self.evaluation.masking_ratio or self.masking.ratio

    @property
    def sequences_per_update(self) -> int:
        """Sequences of one update, over all devices and micro-batches."""
        return self.tokens_per_update // self.data.sequence_tokens

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return math.ceil(self.total_tokens / self.tokens_per_update)


def check_held_out(config: PretrainConfig) -> None:
    """Raises an `InputError` for held-out sequences that a model can't take, or without a mask."""
    num_tokens, given = config.held_out_tokens, config.evaluation.masking_ratio
    rule = f"the learned positions end at model.max_positions = {config.model.max_positions}"
    limit = config.model.position_limit
    fits = limit is None or num_tokens <= limit
    require(fits, "evaluation.sequence_tokens", num_tokens, rule)
    ratio = config.held_out_ratio
    fits = round(ratio * (num_tokens - 1)) > 0  # <cls> never is masked
    rule = f"no token of a held-out sequence of {num_tokens} would be masked"
    require(fits or given is None, "evaluation.masking_ratio", given, rule)
    rule = f"with a masking ratio of {ratio} no token of a held-out sequence would be masked"
    require(fits, "evaluation.sequence_tokens", num_tokens, rule)


def check_trainable(compute: ComputeConfig) -> None:
    """Raises an `InputError` for a precision in which updates are lost.

    Adam's epsilon of 1e-8 is 0 in float16; an update of 5e-5 is below half a unit in the last place
    of most bfloat16 parameters. Float16 activations would need the loss scaled.
    """
    rule = "training needs float32 parameters; compute_dtype may be bfloat16"
    wide = compute.param_dtype == "float32"
    require(wide, "compute.param_dtype", compute.param_dtype, rule)
    rule = "float16 would need loss scaling, which training does not have; use bfloat16"
    dtype = compute.compute_dtype
    require(dtype != "float16", "compute.compute_dtype", dtype, rule)


def check_token_dropout(model: ModelConfig, masking: MaskingConfig) -> None:
    """Raises an `InputError` unless token dropout rescales by the rates of the masking."""
    if not model.token_dropout:
        return
    expected = (model.masking_ratio, model.masking_probability)
    rule = f"model.token_dropout rescales by masking_ratio, masking_probability = {expected}"
    found = (masking.ratio, masking.mask_probability)
    require(found == expected, "masking.ratio, mask_probability", found, rule)
