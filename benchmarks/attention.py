"""Temporaries of dense and flash attention, forward and backward, by the TPU's compiler."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import datetime
import json
import pathlib
import shlex
import sys
from importlib import metadata

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from t5x_lite import topology, tpu_compile
from t5x_lite.model.attention import attend
from t5x_lite.model.flash import Kernel, flash_attention
from t5x_lite.model.masks import segment_mask
from t5x_lite.model.positions import Relative

HEADS, WIDTH, RELATIVE = 12, 64, Relative()


def dense(q, k, v, segments, table):
    places = jnp.arange(q.shape[2])
    bucket = RELATIVE.bucket(places[None] - places[:, None], True)
    bias = jnp.moveaxis(table[bucket], -1, 0)
    return attend(q, k, v, mask=segment_mask(segments, segments), bias=bias)


def flash(q, k, v, segments, table):
    return flash_attention(Kernel(relative=RELATIVE), q, k, v, (segments, segments), table)


def temporaries(path, length, target):
    """Bytes the compiler sets aside for one row's loss and gradients, or would, if it refuses."""
    place = SingleDeviceSharding(tpu_compile.devices(target)[0])
    array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    heads = array((1, HEADS, length, WIDTH), jnp.bfloat16)
    table = array((RELATIVE.buckets, HEADS), jnp.float32)
    loss = lambda q, k, v, table, s: path(q, k, v, s, table).astype(jnp.float32).sum()
    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
    lowered = step.lower(heads, heads, heads, table, array((1, length), jnp.int32))
    try:
        return dict(temporaries=lowered.compile().memory_analysis().temp_size_in_bytes)
    except jax.errors.JaxRuntimeError as error:
        return dict(temporaries=tpu_compile.refusal(str(error), target).needed, refused=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.attention', description=__doc__)
    parser.add_argument('lengths', nargs='*', type=int, default=[512, 1024, 2048, 4096])
    parser.add_argument('--topology', default='v5e-4', help='default: %(default)s')
    parser.add_argument('--json', type=pathlib.Path, help='file for the record')
    options = parser.parse_args()
    tpu_compile.require_compiler()
    target, rows = topology.find(options.topology), []
    for length in options.lengths:
        for path in (flash, dense):
            found = temporaries(path, length, target)
            rows.append(dict(length=length, path=path.__name__, **found))
            print(json.dumps(rows[-1]), flush=True)
    if options.json:
        record = {
            'rows': rows,
            'device': f'none: compiled for {options.topology}',
            'command': shlex.join(['python', '-m', 'benchmarks.attention', *sys.argv[1:]]),
            'date': datetime.date.today().isoformat(),
            'versions': {'jax': jax.__version__, 'libtpu': metadata.version('libtpu')},
        }
        options.json.write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    main()
