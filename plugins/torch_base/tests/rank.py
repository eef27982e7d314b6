"""One of the processes of test_communicator: `python rank.py RANK WORLD_SIZE FILE` prints what it got as JSON."""

from __future__ import annotations

import gc
import json
import sys

import numpy as np
import torch.distributed as dist
from host_accelerator import HostDevice

from rtp_core.plugin import Buffer, dtypes


def main() -> None:
    rank, world_size, rendezvous = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    print(json.dumps(collectives(rank, world_size)))
    gc.collect()  # the device, which holds the group: gloo's threads must end before the interpreter does
    dist.destroy_process_group()


def collectives(rank: int, world_size: int) -> dict[str, object]:
    device = HostDevice(1 << 20, dist.group.WORLD)
    peers, found = device.communicator, {}

    def mine(dtype: dtypes.DType) -> Buffer:
        numbers = np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * rank
        return device.upload(numbers.astype(dtype.numpy), "x")

    for dtype in (dtypes.float32, dtypes.bfloat16, dtypes.float16):
        results = {
            "sum": peers.all_reduce(mine(dtype)),
            "gathered": peers.all_gather(mine(dtype)),
            "of the last": peers.broadcast(mine(dtype), root=world_size - 1),
            "columns": peers.all_gather(mine(dtype)[:, 1:]),
        }
        strided = mine(dtype)
        peers.all_reduce(strided[:, ::2])
        results["every other"] = strided
        found[dtype.name] = {name: device.download(x).astype(np.float32).tolist() for name, x in results.items()}
        del results, strided
    rehearsal = device.rehearsal()
    for name in ("all_reduce", "all_gather"):
        for x in (mine(dtypes.float32), mine(dtypes.float32)[:, 1:]):
            taken = []
            for arena, communicator in ((device.arena, peers), (rehearsal.arena, rehearsal.communicator)):
                arena.reset_peak()
                before = arena.stats().used_bytes
                getattr(communicator, name)(x)
                taken.append(arena.stats().peak_bytes - before)
            assert taken[0] == taken[1], (name, x, taken)
            del x
    assert device.arena.stats().used_bytes == 0, device.arena.table()
    return {"rank": peers.rank, "of": peers.world_size, **found}


main()
