"""Frozen models behind a token-budget batcher: what the reference and the learned reward model have in common.

    callers ── FrozenFleet.compute ──► FrozenServer (rank 0) ── Batcher ──► one forward a rank ──► results
                (least loaded, or                │
                 group % replicas)               └──► FrozenWorker (ranks 1…: ZeRO-3 shards of the same model)

`batcher.py` decides what is computed together (pure), `worker.py` is one process of a replica, `server.py` the
process that callers talk to, `fleet.py` the handle that the controller holds, `sharded.py` the ZeRO-3 loading.
"""
