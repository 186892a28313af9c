"""What a run prints: its plan, a progress bar, held-out results and the final table."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nucleotide_transformer.config import PretrainConfig
from nucleotide_transformer.data.manifest import Manifest
from nucleotide_transformer.pretraining.baselines import Metrics
from nucleotide_transformer.training.step import StepMetrics


class RunProgress:
    """The console of one run; says nothing if `show` is False."""

    def __init__(self, config: PretrainConfig, *, first_step: int, show: bool):
        self._config, self._first_step = config, first_step
        self._console = Console(quiet=not show, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn("updates"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not show,
        )
        self._task = self._bar.add_task(
            "", total=config.total_steps, completed=first_step, metrics="compiling"
        )

    def announce(self, manifest: Manifest, *, num_devices: int, accumulation: int) -> None:
        """Prints the plan: corpus, model, and what the tokens of an update become."""
        config, model = self._config, self._config.model
        self._console.print(
            f"corpus   {config.data.corpus}: {len(manifest.genomes)} genomes,"
            f" {manifest.num_nucleotides('train'):,} nucleotides to train on"
        )
        self._console.print(
            f"model    {model.num_layers} layers, width {model.embed_dim}, {model.num_heads} heads,"
            f" feed-forward {model.ffn_dim}, {config.compute.compute_dtype}"
        )
        self._console.print(
            f"update   {config.tokens_per_update:,} tokens = {num_devices} devices"
            f" x {accumulation} accumulated x {config.sequences_per_device} sequences"
            f" x {config.data.sequence_tokens} tokens"
        )
        start = f", from {self._first_step:,} on" if self._first_step else ""
        if self._first_step >= config.total_steps:
            start = f": all applied, {self._first_step:,} in all"
        self._console.print(f"run      {config.total_steps:,} updates{start}, in {config.output}")

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text)

    def advance(self, step: int, metrics: StepMetrics, tokens_per_second: float) -> None:
        """Shows the metrics of an update in the bar."""
        text = (
            f"loss {metrics.loss:.3f}  accuracy {metrics.accuracy:.2%}"
            f"  {tokens_per_second:,.0f} tokens/s"
        )
        self._bar.update(self._task, completed=step, metrics=text)

    def show_validation(self, step: int, held_out: Metrics) -> None:
        """Prints held-out metrics above the bar."""
        self._console.print(
            f"update {step:,}: held-out loss {held_out.cross_entropy:.4f},"
            f" accuracy {held_out.accuracy:.2%}, {held_out.bits_per_nucleotide:.4f} bits/nucleotide"
        )

    def __enter__(self) -> "RunProgress":
        if self._first_step < self._config.total_steps:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()


def print_summary(
    console: Console,
    config: PretrainConfig,
    held_out: Metrics,
    baselines: dict[str, Metrics],
) -> None:
    """Prints the final table, and where everything is."""
    console.print(make_table(held_out, baselines))
    places = {
        "checkpoints": config.output / "checkpoints",
        "metrics": config.output / "metrics.jsonl",
        "tensorboard": config.output / "tensorboard",
        "curves": config.output / "curves.png",
    }
    for name, place in places.items():
        console.print(f"{name:12} {place}")


def make_table(held_out: Metrics, baselines: dict[str, Metrics]) -> Table:
    """The model against its baselines, on the same masked tokens of held-out DNA."""
    table = Table(title="Masked tokens of held-out DNA", title_justify="left")
    table.add_column("")
    for title in ("cross-entropy (nats)", "perplexity", "accuracy", "bits/nucleotide"):
        table.add_column(title, justify="right")
    for name, row in {"this model": held_out, **baselines}.items():
        numbers = (f"{row.cross_entropy:.4f}", f"{row.perplexity:,.1f}")
        shares = (f"{row.accuracy:.2%}", f"{row.bits_per_nucleotide:.4f}")
        table.add_row(name, *numbers, *shares)
    return table
