"""Checkpoints over Orbax: asynchronous, atomic with the data's position, never trusting blindly."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import checkpoint_managers as policies

from t5x_lite import hosts
from t5x_lite.errors import RunError

# Orbax logs every file it touches, and four times over each error that it also raises.
logging.getLogger('absl').setLevel(logging.ERROR)
logging.getLogger('absl').addFilter(lambda record: '/orbax/' not in record.pathname)
log = logging.getLogger(__name__)
_reads = itertools.count()  # what hosts agree on has a name of its own


class DataHandler(ocp.AsyncCheckpointHandler):
    """Positions of the data, {stream: Loader.state()}; each host writes a file and reads all.

    Some 10 MB a stream: written while the loop goes on, since a position is never changed.
    """

    async def async_save(self, directory, args):
        async def write():
            self.save(directory, args)

        named = dict(name='positions of the data')
        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), **named)]

    def save(self, directory, args):
        arrays = {}
        for stream, state in args.item.items():
            arrays[f'{stream}|skip'] = np.int64(state['skip'])
            for index, shard in state['shards'].items():
                arrays |= {f'{stream}|{index}|{name}': value for name, value in shard.items()}
        np.savez(directory / f'host_{jax.process_index()}.npz', **arrays)

    def restore(self, directory, args=None):
        states = {}
        for file in sorted(Path(directory).glob('host_*.npz')):
            with np.load(file) as arrays:
                for key, value in arrays.items():
                    stream, *rest = key.split('|', 2)
                    state = states.setdefault(stream, {'shards': {}})
                    if rest == ['skip']:
                        state['skip'] = int(value)
                    else:
                        index, name = rest
                        state['shards'].setdefault(int(index), {})[name] = value
        if not states:
            raise FileNotFoundError(f'{directory}: no position of the data')
        return states


@ocp.args.register_with_handler(DataHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class DataArgs(ocp.args.CheckpointArgs):
    """The data's positions as an item of a checkpoint."""

    item: Any = None


class Checkpointer:
    """A run's checkpoints: `save` returns at once, `restore` takes the newest that can be read.

    `plan` (experiment.Checkpoints) says which ones stay.
    """

    def __init__(self, folder: Path, plan):
        self.folder, self._plan = Path(folder).absolute(), plan
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_preservation(plan),
                best_fn=_goodness(plan) if plan.best else None,  # else metrics are not saved
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            ),
        )

    def empty(self) -> bool:
        """There is nothing to go on from."""
        return not self._manager.all_steps()

    def save(self, step: int, state, data: Mapping, window: Mapping, metrics: Mapping) -> None:
        """Begins to save a step; RunError if an earlier save failed. A saved step is left alone.

        `state` is a pytree of arrays, `data` each stream's position, `window` the sums not yet
        logged (JSON), `metrics` what `best` may name.
        """
        self._check()
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=DataArgs(dict(data)),
            window=ocp.args.JsonSave(dict(window)),
        )
        metrics = dict(metrics) if self._plan.best in metrics else None
        self._guard(lambda: self._manager.save(step, args=items, metrics=metrics))

    def restore(self, like) -> tuple[int, Any, dict, dict] | None:
        """(step, state, data, window) of the newest readable checkpoint like `like`, or None.

        Steps that cannot be read are set aside under another name, with a warning, if an earlier
        one can; RunError if there are checkpoints and none can.
        """
        damaged = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            items = ocp.args.Composite(
                state=ocp.args.StandardRestore(like),
                data=DataArgs(),
                window=ocp.args.JsonRestore(),
            )
            restored = told = None
            try:
                restored = self._manager.restore(step, args=items)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                told = _first_line(error)
            if reasons := list(filter(None, hosts.share(f'restored/{step}', told))):
                damaged[step] = reasons[0]  # perhaps on another host alone
                continue
            for bad, reason in damaged.items():
                self._set_aside(bad, reason, step)
            return step, restored['state'], restored['data'], restored['window']
        if damaged:
            reasons = '; '.join(f'step {step}: {reason}' for step, reason in damaged.items())
            raise RunError(
                f'{self.folder}: no checkpoint can be read ({reasons}); mend or move the folder'
            )
        return None

    def wait(self) -> None:
        """Until all saves are on the disk; RunError if one failed."""
        self._guard(self._manager.wait_until_finished)
        self._check()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def _check(self) -> None:
        self._guard(self._manager.check_for_errors)

    def _guard(self, action) -> None:
        try:
            action()
        except Exception as error:
            raise RunError(
                f'checkpoint: saving to {self.folder} failed: {_first_line(error)}; saved steps '
                f'{sorted(self._manager.all_steps())} are whole; make room or mend the folder, '
                'then run the same command to go on from there'
            ) from error

    def _set_aside(self, step: int, reason: str, taken: int) -> None:
        source = self.folder / str(step)
        names = (f'damaged-{step}' + '-again' * i for i in itertools.count())
        target = next(p for p in map(self.folder.joinpath, names) if not p.exists())
        log.warning(
            'checkpoint %s cannot be read (%s); kept as %s, falling back to step %d',
            source,
            reason,
            target.name,
            taken,
        )
        if hosts.is_first():
            source.rename(target)
        hosts.barrier(f'aside/{step}')
        self._manager.reload()


def saved_steps(folder: Path) -> list[int]:
    """The steps that are whole, from the first on; RunError if there are none."""
    steps = sorted(int(path.name) for path in Path(folder).glob('[0-9]*') if path.name.isdigit())
    if not steps:
        raise RunError(f'{folder}: there are no checkpoints')
    return steps


def read_params(folder: Path, step: int | None, like) -> tuple[int, Any]:
    """(step, params) of one step, or of the newest readable one if None, placed like `like`.

    Only reads: the run may be going on. RunError if there is no such step or it cannot be read; a
    newer step that cannot be read is passed over with a warning.
    """
    wanted = _params_like(like)
    read = lambda manager, found: manager.restore(found, args=wanted)['state']['params']
    return _newest(folder, step, read)


def saved_shapes(folder: Path, step: int | None) -> tuple[int, dict[str, tuple[int, ...]]]:
    """(step, {path: shape}) of the parameters of one step, or of the newest if None."""
    read = lambda manager, found: manager.item_metadata(found)['state']['params']
    found, params = _newest(folder, step, read)
    return found, {path: tuple(x.shape) for path, x in flatten_dict(params, sep='/').items()}


def saved_type(folder: Path, step: int, path: str) -> tuple[tuple[int, ...], Any]:
    """(shape, dtype) of one parameter of a step."""
    read = lambda manager, found: manager.item_metadata(found)['state']['params']
    _, params = _newest(folder, step, read)
    found = flatten_dict(params, sep='/')[path]
    return tuple(found.shape), found.dtype


def read_arrays(folder: Path, step: int, like: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Some parameters of a step by their paths, each placed as the array of `like` is.

    One that is larger in `like` has zeros behind what was saved, one that is smaller is cut.
    """
    shapes = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for path, x in like.items()
    }
    wanted = _params_like(unflatten_dict(shapes, sep='/'), strict=False)
    read = lambda manager, found: manager.restore(found, args=wanted)['state']['params']
    return flatten_dict(_newest(folder, step, read)[1], sep='/')


def write_params(folder: Path, params, step: int = 0) -> None:
    """A checkpoint that has parameters only: what was imported, not trained."""
    with ocp.CheckpointManager(Path(folder).absolute()) as manager:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave({'params': params})))


def _params_like(like, *, strict: bool = True):
    like = {'params': like}
    restore_args = ocp.checkpoint_utils.construct_restore_args(like)
    if not strict:
        loose = lambda own: dataclasses.replace(own, strict=False)
        restore_args = jax.tree.map(loose, restore_args)
    wanted = ocp.args.PyTreeRestore(like, partial_restore=True, restore_args=restore_args)
    return ocp.args.Composite(state=wanted)


def _newest(folder: Path, step: int | None, read) -> tuple[int, Any]:
    """(step, read(manager, step)) of one step, or of the newest at which `read` works."""
    options = ocp.CheckpointManagerOptions(read_only=True)
    handlers = {'state': ocp.PyTreeCheckpointHandler()}
    if not Path(folder).is_dir():
        raise RunError(f'{folder}: there are no checkpoints')
    with ocp.CheckpointManager(
        Path(folder).absolute(), item_handlers=handlers, options=options
    ) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        for found in steps if step is None else {step} & set(steps):
            result = told = None
            try:
                result = read(manager, found)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                told = _first_line(error)
            # Perhaps on another host alone: all take the same step.
            reasons = list(filter(None, hosts.share(f'read/{next(_reads)}', told)))
            if not reasons:
                return found, result
            log.warning('checkpoint %s/%d cannot be read: %s', folder, found, reasons[0])
    named = 'step that can be read' if step is None else f'readable step {step}'
    raise RunError(f'{folder}: no {named}; there are {steps[::-1]}')


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]


def _preservation(plan):
    keep = [policies.LatestN(plan.keep)]
    if plan.keep_every:
        keep.append(policies.EveryNSteps(plan.keep_every))
    if plan.best:
        keep.append(
            policies.BestN(
                get_metric_fn=_goodness(plan),
                n=plan.keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    return policies.AnyPreservationPolicy(keep)


def _goodness(plan):
    sign = 1.0 if plan.highest else -1.0
    # A run may name another metric when it is started again: what lacks it is never the best.
    return lambda metrics: sign * metrics[plan.best] if plan.best in metrics else -math.inf
