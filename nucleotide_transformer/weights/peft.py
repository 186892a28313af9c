"""LoRA in the layout of Hugging Face's peft: `adapter_config.json`, `adapter_model.safetensors`.

It belongs on the base model in the Hugging Face layout. The head of a fine-tuning run has no place
there and is not written.
"""

import re
from pathlib import Path

import numpy as np

from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model.adapters import LINEAR, Site
from nucleotide_transformer.weights.adapter_files import Adapter
from nucleotide_transformer.weights.configs import write_json
from nucleotide_transformer.weights.huggingface import write_safetensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_LAYERS: dict[Site, str] = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
"""The linear layer of each site, as transformers calls it."""
_MODULE = re.compile(r"esm_transformer/attention_layer_(\d+)/~/lora/(\w+)")
assert _LAYERS.keys() == LINEAR.keys()


def save_peft(folder: Path, adapter: Adapter) -> None:
    """Writes an adapter into an empty folder.

    Raises:
        InputError: for an adapter that is no LoRA.
    """
    if adapter.method != "lora":
        raise InputError(f"method = {adapter.method!r}: the peft layout is for lora: merge others")
    layers = "|".join(re.escape(_LAYERS[site]) for site in adapter.lora_sites)
    content = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.base,
        "r": adapter.lora_rank,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": rf"esm\.encoder\.layer\.\d+\.({layers})",
    }
    write_json(folder / CONFIG, content)
    tensors = {}
    for module, leaves in adapter.params.items():
        found = _MODULE.fullmatch(module)
        if found is None:
            continue  # the head
        site: Site = found[2]  # type: ignore[assignment]
        name = f"base_model.model.esm.encoder.layer.{found[1]}.{_LAYERS[site]}"
        for ours, theirs in (("down", "lora_A"), ("up", "lora_B")):
            turned = np.asarray(leaves[ours], np.float32).T
            tensors[f"{name}.{theirs}.weight"] = np.ascontiguousarray(turned)
    write_safetensors(folder / TENSORS, tensors)
