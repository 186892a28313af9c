"""What a run prints, read back."""

import io

from printed_tables import read_table
from rich.console import Console

from nucleotide_transformer.pretraining.baselines import Metrics
from nucleotide_transformer.pretraining.report import make_table


def test_each_number_of_the_final_table_stands_below_its_name():
    rows = {
        "this model": Metrics(7.25, 1408.1, 0.0375, 1.7432),
        "frequency": Metrics(8.5, 4914.8, 0.01, 2.0438),
        "markov 3": Metrics(8.0, 2981.0, 0.0225, 1.9236),
    }
    held_out, *_ = rows.values()
    text = io.StringIO()
    console = Console(file=text, width=160)
    console.print(make_table(held_out, {name: rows[name] for name in list(rows)[1:]}))
    found = read_table(text.getvalue())
    assert found == {
        name: {
            "cross-entropy (nats)": f"{row.cross_entropy:.4f}",
            "perplexity": f"{row.perplexity:,.1f}",
            "accuracy": f"{100 * row.accuracy:.2f}%",
            "bits/nucleotide": f"{row.bits_per_nucleotide:.4f}",
        }
        for name, row in rows.items()
    }
