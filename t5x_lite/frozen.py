"""Parameters that do not learn: taken out before gradients and optimizer, put back after."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Collection, Mapping
from typing import Any


def split(params: Mapping[str, Any], teachers: Collection[str]) -> tuple[dict, dict]:
    """(what learns, {teacher: its parameters}); both together are the parameters."""
    if not teachers:
        return dict(params), {}
    heads = {name: x for name, x in params['heads'].items() if name not in teachers}
    own = {name: x for name, x in params.items() if name != 'heads'}
    return own | ({'heads': heads} if heads else {}), {n: params['heads'][n] for n in teachers}


def join(trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict:
    """The parameters that `split` took apart."""
    if not frozen:
        return dict(trained)
    return {**trained, 'heads': {**trained.get('heads', {}), **frozen}}
