"""LoRA of ours in peft, on the base model in transformers: `make test-interop`."""

from pathlib import Path

import numpy as np
import pytest
from small_models import V1, random_params
from test_adapter_exports import make_adapter

from nucleotide_transformer.pretrained import Model, export_model, load_pretrained
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.weights.adapter_files import save_adapter

TOLERANCE = 1e-4
"""Absolute, on logits of order 1, in float32."""


def test_peft_puts_our_lora_on_the_base_in_transformers(tmp_path: Path) -> None:
    torch, transformers, peft = map(pytest.importorskip, ("torch", "transformers", "peft"))
    tokenizer = KmerTokenizer(vocabulary=V1.vocabulary, k=V1.k)
    base = Model(params=random_params(V1), config=V1, tokenizer=tokenizer)
    base.save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "mine", make_adapter(base, "lora", base=tmp_path / "base"))
    export_model(tmp_path / "mine", tmp_path / "peft", layout="peft")
    network = transformers.EsmForMaskedLM.from_pretrained(tmp_path / "base")
    adapted = peft.PeftModel.from_pretrained(network, str(tmp_path / "peft")).eval()
    tokens = tokenizer.encode_batch(["ACGTACGTTTGA", "ACGGA"])
    ids, keep = torch.tensor(tokens, dtype=torch.long), tokens != 1
    with torch.no_grad():
        theirs = adapted(ids, attention_mask=ids != 1).logits.numpy()
    ours = np.asarray(load_pretrained(tmp_path / "mine")(tokens).logits)
    assert np.abs(ours - np.asarray(base(tokens).logits))[keep].max() > 0.1
    assert np.abs(ours - theirs)[keep].max() < TOLERANCE
