"""Two processes of a group: what takes both of them, and what one does by itself."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import multiprocessing

from rushes_service.engine.parallel.group import Group
from rushes_service.engine.parallel.member import Member
from rushes_service.engine.parallel.ways import WAYS
from rushes_service.runtime.devices import CPU
from rushes_service.worker.devices import free_port

HEADS = 3
"""One process has two of them."""


def transformer() -> WanTransformer3DModel:
    torch.manual_seed(5)
    return WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=12, num_layers=2, ffn_dim=16, text_dim=8, freq_dim=8
    ).eval()


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    return {
        "hidden_states": torch.randn(1, 16, 3, 6, 6, generator=generator),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 7, 8, generator=generator),
    }


def be_member(rank: int, port: int) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    group = Group(rank, 2, CPU, port)
    alone = transformer()
    for way in WAYS:
        member, together = Member(group, way), transformer()
        if rank == 0:
            member.install([transformer()])  # the other one has no memory for it, say
        assert group.gather(None) == [None, None]
        member.install([together])
        with torch.no_grad():
            wanted, found = (each(**inputs(), return_dict=False)[0] for each in (alone, together))
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max(), way
    group.leave()


@pytest.mark.timeout(300)
def test_a_model_that_one_process_cannot_load_holds_up_nobody() -> None:
    multiprocessing.spawn(be_member, (free_port(),), nprocs=2)
