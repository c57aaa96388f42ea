"""The choice of what computes a pass's attention, and the choices of a step in words."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import contextvars

import jax

from t5x_lite import sharding
from t5x_lite.errors import ConfigError
from t5x_lite.model.backends import KERNELS, Case, Choice, Dense, Seen, name
from t5x_lite.model.masks import Sight


def of_config(config) -> Case:
    """What a ModelConfig alone tells."""
    bias = config.positions if config.positions.has_bias else None
    return Case(config.dtype, config.kv, bias, config.attention_cap, config.dropout)


def check(config) -> None:
    """ConfigError if the config names a backend that cannot compute it, whatever the objective."""
    backend = config.attention
    if not hasattr(backend, 'choose'):
        raise ConfigError(
            f'ModelConfig: attention={backend!r} must be Auto(), Dense(), Flash() or Cudnn()'
        )
    if refusal := backend.refusal(of_config(config)):
        raise refusal.error(backend)


def see(config, sight: Sight, *, dropping: bool, cached: bool = False, cross: bool = False) -> Seen:
    """What a pass's attention sees, by the backend that the config's choice takes for it.

    `dropping` says whether there is a key for dropout; with a cache it is dense.

    Raises:
      ConfigError: the config names a backend that cannot compute this.
    """
    case = of_config(config)._replace(
        name='cross' if cross else 'decoder' if sight.causal else 'encoder',
        heads=config.heads,
        platform=sharding.mesh_platform(),
        lengths=(sight.query_BxL.shape[1], sight.key_BxM.shape[1]),
        prefix=sight.prefix_BxL is not None,
        order=sight.order is not None,
        plain=sight.is_plain,
        uneven=_uneven(config, sight.query_BxL.shape[0]),
    )
    case = case._replace(bias=None) if cross else case
    case = case if dropping else case._replace(dropout=0.0)
    choice = Choice(Dense(), 'cache') if cached else config.attention.choose(case)
    if _watched.get() is not None:
        _watched.get().append((case, choice))
    return Seen(choice.backend, sight, choice.backend.mask(sight))


def _uneven(config, rows: int) -> str | None:
    """Why a kernel cannot be called on each device's own part, if so."""
    if not sharding.is_active() and sharding.platform() in KERNELS and jax.device_count() > 1:
        return 'needs to know the mesh, here there are several devices and none'
    if sharding.parts('length') > 1:
        return 'needs whole rows, here the mesh splits them (context)'
    sizes = (('rows', rows, 'batch'), ('heads', config.heads, 'heads'))
    for what, size, axis in (*sizes, ('kv_heads', config.groups, 'heads')):
        if size % sharding.parts(axis):
            return f'needs equal parts, here {what}={size} on {sharding.parts(axis)} devices'
    return None


_watched = contextvars.ContextVar('choices that were made', default=None)


@contextlib.contextmanager
def watching():
    """A list to which every choice made inside is added, with its case."""
    token = _watched.set([])
    try:
        yield _watched.get()
    finally:
        _watched.reset(token)


def explained(found) -> str:
    """What `watching` gave, in one line: `attention: dense (cpu): encoder 512 x 512`."""
    groups = {}
    for case, (backend, why) in found:
        cases = groups.setdefault(f'{name(backend)} ({why})', {})
        scores = 4 * case.heads * case.lengths[0] * case.lengths[1] / 2**20
        spared = f' (dense scores: {scores:,.0f} MiB a row)'
        cases[case.shown + ('' if isinstance(backend, Dense) else spared)] = None
    return 'attention: ' + '; '.join(f'{group}: {", ".join(c)}' for group, c in groups.items())
