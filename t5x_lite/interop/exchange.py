"""`t5x-lite ckpt`: published files or a T5X checkpoint as a run's folder, and files of a run."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import os
import runpy
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_lite.errors import ConfigError
from t5x_lite.interop import vocabulary_files
from t5x_lite.model.config import ModelConfig

MODEL = 'model.py'
TOKENIZER = 'tokenizer'


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model and its heads: what the folder of an imported run says of it, in model.py."""

    model: ModelConfig
    heads: Mapping[str, Any]


def import_folder(source: Path, run: Path, *, strict: bool = True) -> str:
    """Makes a run's folder, with a checkpoint of step 0, of a folder of files; what was loaded.

    Raises:
      ConfigError: a folder that is not empty, or files that do not fit; nothing is written then.
    """
    from t5x_lite.interop import hugging_face
    from t5x_lite.warm_start import from_hf

    own = _described(hugging_face.open_folder(source))
    return _import(own, from_hf(str(source), strict=strict), run, source)


def import_t5x(source: Path, model: ModelConfig, run: Path, *, strict: bool = True) -> str:
    """Makes a run's folder of a T5X checkpoint of `model`, as `import_folder` does."""
    from t5x_lite.warm_start import from_t5x

    own = Architecture(model=model, heads={})
    return _import(own, from_t5x(str(source), strict=strict), run, source)


def _import(own: Architecture, init, run: Path, source: Path) -> str:
    from t5x_lite import checkpoint, printing

    _, weights, arrays = _opened(own, init)
    with written_whole(run) as new:
        params = unflatten_dict(weights.load(arrays), sep='/')
        checkpoint.write_params(new / 'checkpoints', params)
        text = printing.source(own, 'architecture')
        (new / MODEL).write_text(text, encoding='utf-8')
        vocabulary_files.copy(source, new / TOKENIZER)
    return weights.told


def load_model(source: str | Path, *, strict: bool = True):
    """The Model of a folder of files, with the heads that its architecture has.

    Raises:
      ConfigError: files that are missing or damaged or do not fit.
    """
    from t5x_lite.interop import hugging_face
    from t5x_lite.warm_start import from_hf

    own = _described(hugging_face.open_folder(source))
    graph, weights, arrays = _opened(own, from_hf(str(source), strict=strict))
    return nnx.merge(graph, unflatten_dict(weights.load(arrays), sep='/'))


def _opened(own: Architecture, init):
    """(graph, weights checked and not yet read, abstract arrays by path)."""
    from t5x_lite.model import transformer

    abstract = jax.eval_shape(lambda: transformer.build(own.model, own.heads))
    graph, state = nnx.split(abstract)
    arrays = flatten_dict(nnx.to_pure_dict(state), sep='/')
    shapes = {path: x.shape for path, x in arrays.items()}
    return graph, init.open(own.model, own.heads, shapes), arrays


def _described(opened) -> Architecture:
    """What a folder's config.json says, as ours."""
    from t5x_lite.interop import hugging_face

    try:
        model = opened.family.to_model(opened.fields)
    except ConfigError as error:
        raise ConfigError(f'{opened.folder}: {error}') from error
    return Architecture(model=model, heads=hugging_face.heads_of(opened))


def export_run(run: Path, target: Path, *, step: int | None = None, dtype: str = 'float32') -> str:
    """Writes a run's checkpoint as files that transformers loads; what was written.

    Raises:
      ConfigError: no run, a folder that is not empty, a model of no known family.
      RunError: a checkpoint that is missing or damaged.
    """
    from t5x_lite import checkpoint
    from t5x_lite.interop import hugging_face
    from t5x_lite.model import transformer

    own = architecture_of(run)
    hugging_face.family_of(own.model, own.heads)
    with written_whole(target) as new:
        graph = jax.eval_shape(lambda: transformer.build(own.model, own.heads))
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            nnx.to_pure_dict(nnx.state(graph)),
        )
        found, params = checkpoint.read_params(run / 'checkpoints', step, like)
        arrays = flatten_dict(params, sep='/')
        hugging_face.write_folder(new, own.model, own.heads, arrays, dtype=dtype)
        told = _tokenizer(run, new)
    return f'step {found} of {run}: {target.resolve()}\n{told}'


def architecture_of(run: Path) -> Architecture:
    """The model and the heads of a run's folder, trained or imported."""
    if (run / MODEL).is_file():
        return runpy.run_path(str(run / MODEL))['architecture']
    if (run / 'experiment.py').is_file():
        from t5x_lite import config

        experiment = config.load(run / 'experiment.py').experiment
        return Architecture(model=experiment.model, heads=experiment.heads)
    raise ConfigError(f'{run}: no run is there (neither experiment.py nor {MODEL})')


def _tokenizer(run: Path, target: Path) -> str:
    """Puts the run's tokenizer files beside the weights; what was written, or why nothing was."""
    names = vocabulary_files.copy(run / TOKENIZER, target)
    if not names and (run / 'experiment.py').is_file():
        from t5x_lite import config

        try:
            names = vocabulary_files.write(config.load(run / 'experiment.py').experiment, target)
        except ConfigError as error:
            return f'no tokenizer files: {error}'
    return f'tokenizer: {", ".join(names)}' if names else f'no tokenizer files: {run} has none'


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name at the end, or goes if something fails."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f'{folder}: is there already; name a new folder')
    folder = folder.resolve()
    new = folder.with_name(f'.{folder.name}.{os.getpid()}')  # nobody's folder
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rmdir()
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
