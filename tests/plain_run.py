"""A pre-training run written out plainly, which the real one is compared with.

Nothing here comes from the package's model, pretraining or training: only config classes, the
tokenizer, and the records of a corpus. Every rule is written in the most literal way, a row, a head
or a parameter at a time, and all that follows from the masks is computed in float64.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from plain_order import START, STRAND, WORD, choose_record, hash_numbers

from nucleotide_transformer.config import MaskingConfig
from nucleotide_transformer.data.manifest import load_manifest
from nucleotide_transformer.data.reader import open_split
from nucleotide_transformer.tokenizers import KmerTokenizer

EVALUATION_SEED = 850
PARTNERS = dict(zip(b"ACGTN", b"TGCAN", strict=True))


class Corpus:
    """What a run reads, as token ids."""

    def __init__(self, config):
        self.config, self.manifest = config, load_manifest(config.data.corpus)
        self.tokenizer = KmerTokenizer(config.model.vocabulary, config.model.k)
        self.num_tokens = config.data.sequence_tokens
        self.needed = (self.num_tokens - 1) * config.model.k
        self.least = min(self.needed, self.manifest.chunk_length)

    def tokenize(self, text, num_tokens):
        ids = self.tokenizer.encode(text).tolist()[:num_tokens]
        return ids + [self.tokenizer.pad_token_id] * (num_tokens - len(ids))

    def read_update(self, update):
        """Token ids [rows, tokens] of update number `update`, from 0."""
        config, reader = self.config, open_split(self.manifest, "train")
        num_rows = config.tokens_per_update // config.data.sequence_tokens
        sequences = []
        for row in range(update * num_rows, (update + 1) * num_rows):
            offsets = reader.species_offsets.tolist()
            index = choose_record(row, offsets, config.data.temperature, config.seed)
            (record,) = reader.read([index])
            if hash_numbers(config.seed, STRAND, row) / WORD < config.data.reverse_complement:
                record = bytes(PARTNERS[letter] for letter in reversed(record))
            spare = max(len(record) - self.least, config.model.k - 1)
            largest = min(spare, len(record) - 1)
            if self.needed >= self.manifest.chunk_length - config.model.k:
                largest = min(largest, max(2 * self.manifest.overlap, config.model.k - 1))
            start = hash_numbers(config.seed, START, row) % (largest + 1)
            sequences.append(self.tokenize(record[start : start + self.needed], self.num_tokens))
        return np.array(sequences)

    def read_held_out(self):
        """The first whole records without N of a walk through the validation split, sorted."""
        reader, overlap = open_split(self.manifest, "validation"), self.manifest.overlap
        num_tokens = self.config.evaluation.sequence_tokens or self.num_tokens
        needed = (num_tokens - 1) * self.config.model.k
        least = min(needed, self.manifest.chunk_length)
        stride = round(len(reader) * (math.sqrt(5) - 1) / 2)
        while math.gcd(stride, len(reader)) != 1:
            stride += 1
        chosen = {}
        for place in range(len(reader)):
            index = place * stride % len(reader)
            window = reader.read([index])[0][overlap : overlap + needed]
            if len(window) >= least and b"N" not in window:
                chosen[index] = window
            if len(chosen) == self.config.evaluation.num_sequences:
                break
        return np.array([self.tokenize(chosen[index], num_tokens) for index in sorted(chosen)])

    def count_tokens(self):
        """How often each id occurs in all records of the training split."""
        reader = open_split(self.manifest, "train")
        counts = np.zeros(self.tokenizer.vocabulary_size, int)
        for index in range(len(reader)):
            for token in self.tokenizer.encode(reader.read([index])[0]):
                counts[token] += 1
        return counts


# Masks.


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def draw_numbers(key, row, num_tokens, num_slots, num_others):
    select_key, share_key, other_key = jax.random.split(jax.random.fold_in(key, row), 3)
    scores = jax.random.uniform(select_key, (num_tokens,))
    shares = jax.random.uniform(share_key, (num_slots,))
    return scores, shares, jax.random.randint(other_key, (num_slots,), 1, num_others)


def mask(tokens, key, masking, model):
    """What the model sees of sequences, and which of their tokens it must predict."""
    inputs, selected = tokens.copy(), np.zeros(tokens.shape, bool)
    num_tokens, num_others = tokens.shape[1], model.num_nucleotide_tokens
    num_slots = max(1, round(masking.ratio * num_tokens))
    for row, sequence in enumerate(tokens.tolist()):
        numbers = draw_numbers(key, row, num_tokens, num_slots, num_others)
        scores, shares, shifts = (leaf.tolist() for leaf in jax.device_get(numbers))
        is_known = [0 <= token - model.first_kmer_id < num_others for token in sequence]
        known = [place for place in range(num_tokens) if is_known[place]]
        by_score = sorted(known, key=lambda place: -scores[place])
        for slot, place in enumerate(by_score[: round(masking.ratio * len(known))]):
            selected[row, place] = True
            offset = sequence[place] - model.first_kmer_id
            if shares[slot] < masking.mask_probability:
                inputs[row, place] = model.mask_token_id
            elif shares[slot] < masking.mask_probability + masking.random_probability:
                inputs[row, place] = model.first_kmer_id + (offset + shifts[slot]) % num_others
    return inputs, selected


# The network.


def apply_linear(x, leaves):
    return x @ leaves["w"] + leaves.get("b", 0.0)


def apply_norm(x, leaves, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    standard = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return standard * leaves["scale"] + leaves["offset"]


def gelu(x):
    return x * (1 + jax.scipy.special.erf(x / math.sqrt(2))) / 2


def swish(x):
    return x / (1 + jnp.exp(-x))


def rotate(x):
    """Turns the pairs (i, i + K / 2) of one head [B, T, K] by position / 10,000 ** (2 i / K)."""
    num_tokens, width = x.shape[1:]
    turned = [None] * width
    for i in range(width // 2):
        angle = np.arange(num_tokens) / 10_000 ** (2 * i / width)
        first, second = x[:, :, i], x[:, :, i + width // 2]
        turned[i] = first * np.cos(angle) - second * np.sin(angle)
        turned[i + width // 2] = second * np.cos(angle) + first * np.sin(angle)
    return jnp.stack(turned, axis=-1)


def attend(x, params, block, keep, model):
    query, key, value = (
        apply_linear(x, params[f"{block}/mha/{name}"]) for name in ("query", "key", "value")
    )
    width, heads = model.embed_dim // model.num_heads, []
    for head in range(model.num_heads):
        own = slice(head * width, (head + 1) * width)
        q, k, v = (part[:, :, own] for part in (query, key, value))
        if model.position == "rotary":
            q, k = rotate(q), rotate(k)
        scores = jnp.einsum("btk,bsk->bts", q, k) / math.sqrt(width)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True)) * keep[:, None, :]
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    return apply_linear(jnp.concatenate(heads, -1), params[f"{block}/mha/mha_output"])


def feed_forward(x, params, block, model):
    activate = {"gelu": gelu, "swish": swish}[model.ffn_activation]
    hidden = apply_linear(x, params[f"{block}/fc1"])
    if model.ffn_gated:
        hidden = activate(hidden[..., : model.ffn_dim]) * hidden[..., model.ffn_dim :]
    else:
        hidden = activate(hidden)
    return apply_linear(hidden, params[f"{block}/fc2"])


@functools.cache
def spell(model):
    """For each place of a letter, and then of a pair, which of its vectors a token's row takes."""
    kinds = [(place, 1) for place in range(model.k)]
    kinds += [(place, 2) for place in range(model.k - 1) if model.token_tables == "pairs"]
    tokenizer, found, first = KmerTokenizer(model.vocabulary, model.k), [], 0
    for place, length in kinds:
        words = ["".join(word) for word in itertools.product("ATCG", repeat=length)]
        rows = np.zeros((model.vocabulary_size, len(words)))
        for token in range(model.vocabulary_size):
            text = tokenizer.id_to_token(token)
            if len(text) == model.k and set(text) <= set("ATCG"):
                rows[token, words.index(text[place : place + length])] = 1
        found.append((rows, slice(first, first + len(words))))
        first += len(words)
    return found


def embed(params, tokens, keep, model):
    table = params["esm_transformer/~/embed"]["embeddings"]
    if model.token_tables != "free":
        shared = params["esm_transformer/~/shared"]["embeddings"]
        table = table + sum(rows @ shared[own] for rows, own in spell(model))
    x = table[tokens]
    if model.token_dropout:
        hidden = tokens == model.mask_token_id
        seen = 1 - hidden.sum(1) / keep.sum(1)
        rescale = (1 - model.masking_ratio * model.masking_probability) / seen
        x = x * ~hidden[:, :, None] * rescale[:, None, None]
    x = x * model.embed_scale
    if model.position == "learned":
        table = params["esm_transformer/~/esm_learned_positional_embeddings/~/embed"]
        place = jnp.where(keep, jnp.cumsum(keep, 1) + model.pad_token_id, model.pad_token_id)
        x = x + table["embeddings"][place]
    if model.embed_layer_norm:
        norm = params["esm_transformer/~/emb_layer_norm_before"]
        x = apply_norm(x, norm, model.layer_norm_epsilon)
    return x


def compute_logits(params, tokens, model):
    """Of every token [B, T, V]."""
    keep, epsilon = tokens != model.pad_token_id, model.layer_norm_epsilon
    x = embed(params, tokens, keep, model)
    for layer in range(model.num_layers):
        block = f"esm_transformer/attention_layer_{layer}/~"
        normal = apply_norm(x, params[f"{block}/mha_layer_norm"], epsilon)
        x = x + attend(normal, params, block, keep, model)
        normal = apply_norm(x, params[f"{block}/final_layer_norm"], epsilon)
        x = x + feed_forward(normal, params, block, model)
    head = "esm_transformer/~/esm_roberta_lm_head/~"
    x = apply_norm(x, params[f"{head}/emb_layer_norm_after"], epsilon)
    x = gelu(apply_linear(x, params[f"{head}/lm_head_fc_1"]))
    x = apply_norm(x, params[f"{head}/lm_head_layer_norm"], epsilon)
    logits = apply_linear(x, params[f"{head}/lm_final_fc"])
    if model.token_tables != "free":
        shared = apply_linear(x, params[f"{head}/shared"])
        logits = logits + sum(shared[..., own] @ rows.T for rows, own in spell(model))
    return logits


def compute_loss(params, inputs, tokens, selected, model):
    """Mean cross-entropy of the selected tokens; that of each row; how many are predicted right."""
    logits = compute_logits(params, inputs, model)
    top = logits.max(-1, keepdims=True)
    log_sums = jnp.log(jnp.exp(logits - top).sum(-1)) + top[..., 0]
    nats = log_sums - jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    nats, correct = nats * selected, (logits.argmax(-1) == tokens) & selected
    return nats.sum() / selected.sum(), (nats.sum(1), correct.sum())


differentiate = jax.jit(jax.value_and_grad(compute_loss, has_aux=True), static_argnums=4)
evaluate_loss = jax.jit(compute_loss, static_argnums=4)


# The optimiser, in NumPy.


def find_rate(optimizer, num_applied, total):
    """The learning rate of the update after `num_applied` others."""
    num_last = round(optimizer.cooldown_share * total)
    end, peak, final = total - num_last, optimizer.peak_learning_rate, optimizer.final_learning_rate
    place, warmup = min(num_applied, end), optimizer.warmup_steps
    if place < warmup:
        initial = optimizer.initial_learning_rate
        return initial + (peak - initial) * place / warmup
    share = (place - warmup) / (end - warmup)
    rate = {
        "cosine": final + (peak - final) * (1 + math.cos(math.pi * share)) / 2,
        "linear": final + (peak - final) * (1 - share),
        "published": peak * math.sqrt(warmup / place),
    }[optimizer.schedule]
    return rate * (total - num_applied) / num_last if num_applied > end else rate


def find_group(module, leaf, optimizer):
    if leaf in ("b", "scale", "offset"):
        return optimizer.norms
    if leaf == "embeddings":
        return optimizer.tables
    return optimizer.head if "head" in module else optimizer.matrices


def list_leaves(params):
    return [(module, leaf) for module, leaves in params.items() for leaf in leaves]


class Adam:
    """Kingma and Ba 2015, algorithm 1, with clipped gradients and decoupled weight decay."""

    def __init__(self, optimizer, params, total):
        self.config, self.total, self.num_applied = optimizer, total, 0
        self.first = dict.fromkeys(list_leaves(params), 0.0)
        self.second = dict.fromkeys(list_leaves(params), 0.0)

    def update(self, params, grads):
        """The new parameters, the norm of the gradient before clipping and the rate."""
        config, rate = self.config, find_rate(self.config, self.num_applied, self.total)
        self.num_applied += 1
        norm = math.sqrt(sum((grads[m][leaf] ** 2).sum() for m, leaf in list_leaves(params)))
        factor = min(1.0, config.clip_norm / norm)
        new = {module: {} for module in params}
        for module, leaf in list_leaves(params):
            name, gradient = (module, leaf), grads[module][leaf] * factor
            moment = config.beta1 * self.first[name] + (1 - config.beta1) * gradient
            square = config.beta2 * self.second[name] + (1 - config.beta2) * gradient**2
            self.first[name], self.second[name] = moment, square
            moment = moment / (1 - config.beta1**self.num_applied)
            square = square / (1 - config.beta2**self.num_applied)
            group = find_group(module, leaf, config)
            decay = config.weight_decay * group.decay * params[module][leaf]
            step = moment / (np.sqrt(square) + config.epsilon) + decay
            new[module][leaf] = params[module][leaf] - rate * group.rate * step
        return new, norm, rate


# The run.


@dataclasses.dataclass
class Update:
    """One update: loss and accuracy before it, and the parameters after it."""

    num_masked: int
    loss: float
    num_correct: int
    gradient_norm: float
    rate: float
    inputs: np.ndarray
    tokens: np.ndarray
    params: dict
    """float64."""


def run_plainly(config, params):
    """All updates of a run from given parameters."""
    corpus, total = Corpus(config), math.ceil(config.total_tokens / config.tokens_per_update)
    params = {m: {k: np.float64(v) for k, v in leaves.items()} for m, leaves in params.items()}
    adam, updates = Adam(config.optimizer, params, total), []
    for number in range(total):
        tokens = corpus.read_update(number)
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        inputs, selected = mask(tokens, key, config.masking, config.model)
        with jax.enable_x64(True):
            answer = differentiate(params, inputs, tokens, selected, config.model)
            (loss, (_, num_correct)), grads = jax.device_get(answer)
        params, norm, rate = adam.update(params, grads)
        update = (selected.sum(), loss, num_correct, norm, rate, inputs, tokens, params)
        updates.append(Update(*update))
    return updates


class HeldOut:
    """The evaluation of a run: all selected tokens hidden, the same ones every time."""

    def __init__(self, config):
        self.model, self.tokens = config.model, Corpus(config).read_held_out()
        ratio = config.evaluation.masking_ratio or config.masking.ratio
        hidden = MaskingConfig(ratio=ratio, mask_probability=1.0, random_probability=0.0)
        key = jax.random.key(EVALUATION_SEED)
        self.inputs, self.selected = mask(self.tokens, key, hidden, config.model)
        self.targets = self.tokens[self.selected]
        is_kmer = self.targets < self.model.first_kmer_id + 4**self.model.k
        self.lengths = np.where(is_kmer, self.model.k, 1)

    def evaluate(self, params):
        with jax.enable_x64(True):
            answer = evaluate_loss(params, self.inputs, self.tokens, self.selected, self.model)
        return self.describe(*jax.device_get(answer[1]))

    def describe(self, nats, num_correct):
        """The metrics of the nats of each row, and of a number of right predictions."""
        loss, total = nats.sum() / len(self.targets), len(self.targets)
        deviations = nats - loss * self.selected.sum(1)
        return {
            "cross_entropy": loss,
            "perplexity": math.exp(loss),
            "accuracy": num_correct / total,
            "bits_per_nucleotide": nats.sum() / math.log(2) / self.lengths.sum(),
            "standard_error": math.sqrt((deviations**2).sum() / (1 - 1 / len(nats))) / total,
        }
