"""The peer: ESM of transformers on torch, whose blocks have as many FLOPs a token as ours.

In training it computes the last block and the head at every token, as transformers does; the
package only where a token is masked, which saves it 5 % of the FLOPs of 100M. Fine-tuning is LoRA
by peft, at our sites and of our rank, with transformers' own head of two classes on `<cls>`.
"""

import importlib
import importlib.util
import os
from typing import Any

import numpy as np

from nucleotide_transformer.benchmark.config import BenchmarkConfig, Case, find_model
from nucleotide_transformer.benchmark.workloads import draw_tokens
from nucleotide_transformer.config import MaskingConfig, ModelConfig
from nucleotide_transformer.finetuning.config import LoraConfig

IGNORED = -100
"""Label of a token that the loss leaves out."""


def explain_absence(case: Case, platform: str) -> str | None:
    """Why a case has no peer, or None if it has one."""
    if case.num_devices > 1:
        return "the peer runs on one device"
    if case.task == "finetune" and case.method != "lora":
        return "of fine-tuning the peer has lora alone"
    modules = ("torch", "transformers", "peft")
    for module in modules if case.task == "finetune" else modules[:2]:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    if platform == "cpu":
        return None
    if platform != "gpu":
        return f"the peer does not run on {platform}"
    cuda = importlib.import_module("torch").cuda.is_available()
    return None if cuda else "torch is installed without CUDA"


def make_esm_config(model: ModelConfig) -> dict[str, Any]:
    """Options of `EsmConfig`; its feed-forward network has no gate, and is wider to make up.

    A gated network of width F has three matrices of D x F, one without a gate two: at 3 F / 2
    both have as many multiplications.
    """
    return {
        "vocab_size": model.vocabulary_size,
        "hidden_size": model.embed_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.ffn_dim * (2 + model.ffn_gated) // 2,
        "position_embedding_type": "rotary" if model.position == "rotary" else "absolute",
        "max_position_embeddings": model.max_positions + model.pad_token_id + 1,
        "layer_norm_eps": model.layer_norm_epsilon,
        "emb_layer_norm_before": model.embed_layer_norm,
        "token_dropout": model.token_dropout,
        "pad_token_id": model.pad_token_id,
        "mask_token_id": model.mask_token_id,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "tie_word_embeddings": False,
    }


def add_lora(model: Any) -> Any:
    """A frozen classifier of transformers with LoRA's changes and a head that are trained."""
    peft, lora = importlib.import_module("peft"), LoraConfig()
    places = r".*attention\.(self\.(query|key|value)|output\.dense)"
    options = {"task_type": "SEQ_CLS", "r": lora.rank, "lora_alpha": lora.alpha}
    return peft.get_peft_model(model, peft.LoraConfig(**options, target_modules=places))


class TorchPeer:
    """`EsmForMaskedLM` as its documentation has it: eager, default attention, Adam in one pass.

    In bfloat16 it trains under autocast, and infers with its parameters in bfloat16.
    """

    def __init__(self, case: Case, config: BenchmarkConfig, platform: str):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._torch = torch = importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self._device = "cuda" if platform == "gpu" else "cpu"
        self._case, self._model_config = case, find_model(case.model, config.model)
        self.overlaps = platform != "cpu"
        torch.manual_seed(config.seed)
        esm = transformers.EsmConfig(**make_esm_config(self._model_config))
        self._dtype = getattr(torch, config.compute.compute_dtype)
        if case.task == "finetune":
            self._model = add_lora(transformers.EsmForSequenceClassification(esm))
        else:
            self._model = transformers.EsmForMaskedLM(esm)
        self._model.to(self._device)
        if case.task in ("train", "finetune"):
            # transformers' own contact head takes no part in the loss, and so gets no gradient.
            params = [leaf for leaf in self._model.parameters() if leaf.requires_grad]
            self._optimizer = torch.optim.Adam(params, lr=1e-4, fused=True)
            self._model.train()
        else:
            self._model.to(self._dtype).eval()
        shape = (case.accumulation, case.sequences_per_device, case.sequence_tokens)
        tokens = draw_tokens(shape[0] * shape[1], shape[2], self._model_config, config.seed)
        self._tokens = torch.from_numpy(tokens.astype(np.int64)).reshape(shape)

    def start(self) -> Any:
        """Runs a step; on a GPU it may still be under way when this returns."""
        run = {"train": self._update, "embed": self._embed, "logits": self._logits}
        run |= {"probe": self._embed_layers, "finetune": self._update}
        result = run[self._case.task](self._tokens.to(self._device))
        if self._device == "cpu":
            return result
        event = self._torch.cuda.Event()
        event.record()
        return event

    def wait(self, started: Any) -> None:
        """Waits for the step on a GPU."""
        if self._device == "cuda":
            started.synchronize()

    @staticmethod
    def free_memory() -> None:
        """Gives back what torch keeps of peers that are gone."""
        importlib.import_module("torch").cuda.empty_cache()

    def _update(self, tokens: Any) -> Any:
        """One update; the loss of the last micro-batch."""
        torch = self._torch
        half = self._dtype != torch.float32
        for micro in tokens:
            inputs, labels = self._make_targets(micro)
            with torch.autocast(self._device, dtype=self._dtype, enabled=half):
                keep = torch.ones_like(micro)
                loss = self._model(input_ids=inputs, attention_mask=keep, labels=labels).loss
            (loss / len(tokens)).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _make_targets(self, tokens: Any) -> tuple[Any, Any]:
        """Inputs and labels: what is masked, or a class for each sequence."""
        if self._case.task == "train":
            return self._mask(tokens)
        return tokens, self._torch.arange(len(tokens), device=tokens.device) % 2

    def _mask(self, tokens: Any) -> tuple[Any, Any]:
        """Masks 15 % of the tokens, 80/10/10, as transformers' own collator does."""
        torch, masking, model = self._torch, MaskingConfig(), self._model_config
        draw, kind = (torch.rand(tokens.shape, device=tokens.device) for _ in range(2))
        selected = (draw < masking.ratio) & (tokens != model.cls_token_id)
        labels = torch.where(selected, tokens, IGNORED)
        end = masking.mask_probability + masking.random_probability
        other = torch.randint_like(tokens, model.first_kmer_id, model.vocabulary_size)
        inputs = torch.where(selected & (kind < end), other, tokens)
        masked = selected & (kind < masking.mask_probability)
        return torch.where(masked, model.mask_token_id, inputs), labels

    def _embed(self, tokens: Any) -> Any:
        """Mean embedding of the last layer."""
        with self._torch.inference_mode():
            keep = self._torch.ones_like(tokens[0])
            return self._model.esm(input_ids=tokens[0], attention_mask=keep)[0].mean(dim=1)

    def _embed_layers(self, tokens: Any) -> Any:
        """Mean embeddings of every layer."""
        with self._torch.inference_mode():
            keep = self._torch.ones_like(tokens[0])
            outputs = self._model.esm(
                input_ids=tokens[0], attention_mask=keep, output_hidden_states=True
            )
            return [layer.mean(dim=1) for layer in outputs.hidden_states]

    def _logits(self, tokens: Any) -> Any:
        """Logits of every token."""
        with self._torch.inference_mode():
            keep = self._torch.ones_like(tokens[0])
            return self._model(input_ids=tokens[0], attention_mask=keep).logits
