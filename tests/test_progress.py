"""What a run prints while it trains."""

import math

import pytest
from test_metrics import make_step_metrics

from nucleotide_transformer.training.progress import RunProgress


@pytest.mark.parametrize("seconds", [0.5, 40.0])
def test_an_update_tells_its_metrics_and_the_time_left_however_long_it_takes(
    seconds, capsys, monkeypatch
):
    now, shown = [0.0], []
    progress = RunProgress(total_steps=1_000, first_step=2, show=True)
    monkeypatch.setattr(progress._bar, "get_time", lambda: now[0])
    for step, speed in ((3, math.nan), (4, 1_280.0), (5, 1_280.0)):
        now[0] += seconds
        progress.advance(step, make_step_metrics(5.0, 10), speed)
        shown.append(progress._bar.tasks[0].fields["metrics"])
        known = {} if math.isnan(speed) else {"tokens_per_second": speed}
        progress.log(step, {"loss": 5.0} | known)
    first, *others = (f"loss 5.000  accuracy 250.00%{speed}" for speed in ("", "  1,280 tokens/s"))
    assert shown == [first, *others, *others]
    first, second = {0.5: ("0:08:18", "0:08:18"), 40.0: ("11:04:00", "11:03:20")}[seconds]
    assert capsys.readouterr().out.splitlines() == [
        "update 3: loss 5.0000",
        f"update 4: loss 5.0000, 1,280 tokens/s, {first} left",
        f"update 5: loss 5.0000, 1,280 tokens/s, {second} left",
    ]
