"""The callback for Lightning, in real trainings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from client_support import AWAY, handed_over, training
from rushes import Cadence, TrainingSampler

lightning = pytest.importorskip("lightning", reason="needs lightning")

BATCHES = 4


class Module(lightning.LightningModule):  # type: ignore[misc]
    """A LoRA on one layer; fails at batch `fails_at`."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        layers = nn.ModuleDict({"to_q": nn.Linear(4, 4)})
        self.lora = get_peft_model(layers, LoraConfig(r=2, target_modules=["to_q"]))
        self.fails_at = fails_at

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        if index == self.fails_at:
            raise ZeroDivisionError("of the trainer")
        return self.lora.base_model.model["to_q"](batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


Make = Callable[[], TrainingSampler]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with training(tmp_path, AWAY) as sampler:
        yield lambda: sampler(cadence=Cadence(every_n_steps=3, every_n_epochs=1, at_first=True))


def fit(make: Make, module: Module, **options: Any) -> Any:
    """Train; returns the callback."""
    from rushes.integrations.lightning import SamplingCallback

    callback = SamplingCallback(make)
    switches = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options |= {**dict.fromkeys(switches, False), "accelerator": "cpu", "callbacks": [callback]}
    batches = torch.utils.data.DataLoader(torch.ones(2 * BATCHES, 4), batch_size=2)
    with contextlib.suppress(ZeroDivisionError):
        lightning.Trainer(max_epochs=2, **options).fit(module, batches)
    return callback


@pytest.mark.filterwarnings("ignore")  # Lightning's own, about loaders and loggers
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0, None), (3, None), (4, 1), (6, None), (8, 2)]),
        ({"accumulate_grad_batches": 2}, [(0, None), (2, 1), (3, None), (4, 2)]),
    ],
)
def test_each_step_that_is_due_is_handed_over_once(
    make: Make, tmp_path: Path, options: dict[str, Any], expected: list[tuple[int, int | None]]
) -> None:
    assert fit(make, Module(), **options).sampler is None
    assert handed_over(tmp_path) == expected


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_fails_ends_the_sampler_too(make: Make, tmp_path: Path) -> None:
    callback = fit(make, Module(fails_at=3))
    assert callback.sampler is None
    assert handed_over(tmp_path) == [(0, None), (3, None)]
