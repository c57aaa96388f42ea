"""Looking tokens up by gather or as one-hot products: time here, or what a TPU compiler makes."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import datetime
import json
import pathlib
import re
import shlex
import statistics
import sys
import time
from importlib import metadata

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite import collectives, sharding, topology, tpu_compile
from t5x_lite.sharding import MeshShape, constrain

ROUNDS = 7
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def gather(table_VxD, ids_BxL):
    return jnp.take(constrain(table_VxD, 'vocab', None), ids_BxL, axis=0)


def one_hot(table_VxD, ids_BxL):
    table_VxD = constrain(table_VxD, 'vocab', None)
    rows_BxLxV = jax.nn.one_hot(ids_BxL, table_VxD.shape[0], dtype=table_VxD.dtype)
    return jnp.einsum('BLV,VD->BLD', constrain(rows_BxLxV, 'batch', None, 'vocab'), table_VxD)


def gradient(path, dtype: str, mesh=None):
    """The jitted function (table, ids, gradient of the rows) -> (a loss, the table's gradient)."""

    def loss(table_VxD, ids_BxL, grad_BxLxD):
        rows_BxLxD = constrain(path(table_VxD.astype(dtype), ids_BxL), 'batch', None, None)
        return jnp.sum(rows_BxLxD * grad_BxLxD, dtype=jnp.float32)

    def function(*arguments):
        if mesh is None:
            return jax.value_and_grad(loss)(*arguments)
        with sharding.active(mesh):
            return jax.value_and_grad(loss)(*arguments)

    return jax.jit(function)


def timed(path, rows: int, options) -> dict:
    """Median CPU milliseconds of the lookup and its gradient on this device."""
    shape = options.batch, options.length
    table = jax.random.normal(jax.random.key(0), (rows, options.embed))
    ids = jax.random.randint(jax.random.key(1), shape, 0, rows)
    grad = jax.random.normal(jax.random.key(2), (*shape, options.embed)).astype(options.dtype)
    run = gradient(path, options.dtype).lower(table, ids, grad).compile()
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        jax.block_until_ready(run(table, ids, grad))
        times.append(1e3 * (time.process_time() - began))
    found = dict(cpu_ms=round(statistics.median(times[1:]), 1))
    return found | dict(temporaries=run.memory_analysis().temp_size_in_bytes)


def compiled(path, rows: int, options) -> dict:
    """What a TPU's compiler makes of it with the vocabulary split over `model`."""
    target = topology.find(options.topology)
    sizes = MeshShape(data=2, fsdp=2, model=options.model)
    mesh = sharding.make_mesh(sizes, tpu_compile.devices(target))
    place = lambda shape, dtype, *axes: jax.ShapeDtypeStruct(
        shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes))
    )
    table = place((rows, options.embed), jnp.float32, 'model', 'fsdp')
    shape, batch = (options.batch, options.length), ('data', 'fsdp')
    ids = place(shape, jnp.int32, batch)
    grad = place((*shape, options.embed), jnp.dtype(options.dtype), batch)
    run = gradient(path, options.dtype, mesh).lower(table, ids, grad).compile()
    text = run.as_text()
    return dict(
        temporaries=run.memory_analysis().temp_size_in_bytes,
        estimated_cycles=sum(map(int, CYCLES.findall(text))),
        sent=collectives.count(text).sent,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.embedding', description=__doc__)
    parser.add_argument('rows', nargs='*', type=int, default=[8192, 32000, 50304])
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--length', type=int, default=128)
    parser.add_argument('--embed', type=int, default=256)
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--topology', help='compile for this TPU; none: run here')
    parser.add_argument('--model', type=int, default=2, help='of the mesh; data and fsdp are 2')
    parser.add_argument('--json', type=pathlib.Path, help='file for the record')
    options = parser.parse_args()
    measure, found = compiled if options.topology else timed, []
    for rows in options.rows:
        for path in (gather, one_hot):
            found.append(dict(rows=rows, path=path.__name__) | measure(path, rows, options))
            print(json.dumps(found[-1]), flush=True)
    if options.json:
        record = dict(
            found=found,
            device=options.topology or jax.devices()[0].device_kind,
            versions={name: metadata.version(name) for name in ('jax',)},
            date=f'{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M+00:00}',
            command=f'python -m benchmarks.embedding {shlex.join(sys.argv[1:])}',
        )
        options.json.write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    main()
