"""`t5x-lite ckpt`: published files or a T5X checkpoint as a run's folder, and files of a run."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import os
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_lite.errors import ConfigError, nearest
from t5x_lite.interop import files, kept_files
from t5x_lite.model.config import ModelConfig
from t5x_lite.run import IMPORTED


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model and its heads: what the folder of an imported run says of it, in model.py.

    `parts` are names of heads that belong to training alone, which no export has; `adapt` is what
    was added to the model, `Experiment.adapt`.
    """

    model: ModelConfig
    heads: Mapping[str, Any]
    parts: tuple[str, ...] = ()
    adapt: Any = None


def import_folder(source: Path, run: Path, *, strict: bool = True) -> str:
    """Makes a run's folder, with a checkpoint of step 0, of a folder of files; what was loaded.

    Raises:
      ConfigError: a folder that is not empty, or files that do not fit; nothing is written then.
    """
    from t5x_lite.warm_start import from_hf

    own = architecture_of_files(source)
    return _import(own, from_hf(str(source), strict=strict), run, source)


def import_t5x(source: Path, model: ModelConfig, run: Path, *, strict: bool = True) -> str:
    """Makes a run's folder of a T5X checkpoint of `model`, as `import_folder` does."""
    from t5x_lite.warm_start import from_t5x

    own = Architecture(model=model, heads={})
    return _import(own, from_t5x(str(source), strict=strict), run, source)


def _import(own: Architecture, init, run: Path, source: Path) -> str:
    from t5x_lite import checkpoint, printing

    _, weights, arrays = _opened(own, init, _host())
    kept_files.check(source, own.model)
    with written_whole(run) as new:
        params = unflatten_dict(weights.load(arrays), sep='/')
        checkpoint.write_params(new / 'checkpoints', params)
        text = printing.source(own, 'architecture')
        (new / IMPORTED).write_text(text, encoding='utf-8')
        names = kept_files.copy(source, new / kept_files.FOLDER)
    return f'{weights.told}\n{kept_files.told(names)}'


def _host():
    """Where arrays lie that only go from file to file: in the host's memory."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices(backend='cpu')[0])


def load_model(source: str | Path, *, strict: bool = True):
    """The Model of a folder of files, with the heads that its architecture has.

    Raises:
      ConfigError: files that are missing or damaged or do not fit.
    """
    from t5x_lite.warm_start import from_hf

    own = architecture_of_files(source)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    graph, weights, arrays = _opened(own, from_hf(str(source), strict=strict), here)
    return nnx.merge(graph, unflatten_dict(weights.load(arrays), sep='/'))


def _opened(own: Architecture, init, where):
    """(graph, weights checked and not yet read, shapes by path, to be placed `where`).

    Raises:
      ConfigError: a weight of the model that the files lack.
    """
    graph, arrays = abstract(own, where)
    weights = init.open(own.model, own.heads, {path: x.shape for path, x in arrays.items()})
    if weights.fresh:
        raise ConfigError(f'{init.path}: lacks {", ".join(weights.fresh[:12])}')
    return graph, weights, arrays


def abstract_model(own: Architecture):
    """The Model's shapes and axes, adapted as it was trained, without memory."""
    from t5x_lite.model import transformer

    def build():
        model = transformer.build(own.model, own.heads)
        if own.adapt is not None:
            own.adapt.apply(model, jax.random.key(0))
        return model

    return jax.eval_shape(build)


def abstract(own: Architecture, where):
    """(graph, {path: shape}) of a model, placed `where`."""
    graph, state = nnx.split(abstract_model(own))
    shapes = flatten_dict(nnx.to_pure_dict(state), sep='/')
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    return graph, {path: place(x) for path, x in shapes.items()}


def architecture_of_files(folder: str | Path) -> Architecture:
    """What the config.json of a folder of files says, as ours."""
    from t5x_lite.interop import hugging_face

    opened = hugging_face.open_folder(folder)
    return Architecture(model=hugging_face.model_of(opened), heads=hugging_face.heads_of(opened))


def export_run(
    run: Path,
    target: Path,
    *,
    step: int | None = None,
    dtype: str = 'float32',
    heads: Sequence[str] = (),
    license: str | None = None,
    language: str | None = None,
) -> str:
    """Writes a run's checkpoint as files that transformers loads; what was written.

    `heads` chooses among the run's heads: 'mlm', 'cola=classifier' (the second is what the family
    calls it), or 'none'; without any, all of them. Parts of training, such as ELECTRA's generator,
    are left out. The folder's model card has `license` and `language` as they are given.

    Raises:
      ConfigError: no run, a folder that is not empty, a model of no known family.
      RunError: a checkpoint that is missing or damaged.
    """
    from t5x_lite.interop import architectures, hugging_face, model_card

    own = architecture_of(run)
    names = chosen_heads({n: h for n, h in own.heads.items() if n not in own.parts}, heads)
    values = {new: own.heads[old] for old, new in names.items()}
    architectures.family_of(own.model, values)
    check_free(target)
    found, params = read_run(run, own, step)
    if own.adapt is not None:
        params = own.adapt.merged(params)
    if 'heads' in params:
        params['heads'] = {new: params['heads'][old] for old, new in names.items()}
    arrays, kept = flatten_dict(params, sep='/'), run / kept_files.FOLDER
    config = files.read_json(kept / 'config.json') if kept.is_dir() else None
    with written_whole(target) as new:
        kept_files.copy(kept, new, kept_files.CONFIGS)
        names = write_tokenizer(run, new)
        hugging_face.write_folder(new, own.model, values, arrays, dtype=dtype, like=config)
        facts = dict(step=found, license=license, language=language)
        (new / 'README.md').write_text(model_card.card(run, own.model, new, **facts), 'utf-8')
    lines = [f'step {found} of {run}: {target.resolve()}']
    lines += [f'left out: {name}, a part of training alone' for name in own.parts]
    return '\n'.join([*lines, kept_files.told(names)])


def read_run(run: Path, own: Architecture, step: int | None = None, where=None) -> tuple[int, Any]:
    """(step, parameters) of a run's checkpoint, adapters among them.

    They are placed `where`; in the host's memory if that is None.
    """
    from t5x_lite import checkpoint

    like = unflatten_dict(abstract(own, where or _host())[1], sep='/')
    return checkpoint.read_params(run / 'checkpoints', step, like)


def chosen_heads(known: Mapping[str, Any], chosen: Sequence[str]) -> dict[str, str]:
    """{the run's name of a head: the family's} of those that --head chooses; all if it does not."""
    if not chosen:
        return {name: name for name in known}
    pairs = [choice.partition('=') for choice in chosen if choice != 'none']
    for name, _, _ in pairs:
        if name not in known:
            raise ConfigError(f'--head {name}: the run has no such head; {nearest(name, known)}')
    return {name: kind or name for name, _, kind in pairs}


def architecture(experiment) -> Architecture:
    """The model and the heads that an experiment trains."""
    return Architecture(
        model=experiment.model,
        heads=experiment.heads,
        parts=experiment.parts,
        adapt=experiment.adapt,
    )


def architecture_of(run: Path) -> Architecture:
    """The model and the heads of a run's folder, trained or imported."""
    if (run / IMPORTED).is_file():
        try:
            return runpy.run_path(str(run / IMPORTED))['architecture']
        except Exception as error:  # whatever a damaged file does
            raise ConfigError(
                f'{run / IMPORTED}: is damaged ({error!r}); import it again'
            ) from error
    if (run / 'experiment.py').is_file():
        from t5x_lite import config

        return architecture(config.load(run / 'experiment.py').experiment)
    raise ConfigError(f'{run}: no run is there (neither experiment.py nor {IMPORTED})')


def write_tokenizer(run: Path, target: Path) -> list[str]:
    """Writes the tokenizer files that came with a run's weights, or its data's vocabulary.

    A line on stderr says if there is none.
    """
    kept = kept_files.copy(run / kept_files.FOLDER, target, kept_files.TOKENIZER)
    if kept:
        return kept
    from t5x_lite import config

    if not (run / 'experiment.py').is_file():
        return []
    try:
        return kept_files.write(config.load(run / 'experiment.py').experiment, target)
    except ConfigError as error:
        print(f'no tokenizer files: {error}', file=sys.stderr)
        return []


def check_free(folder: Path) -> None:
    """ConfigError if something is there that a new folder would replace."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f'{folder}: is there already; name a new folder')


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name at the end, or goes if something fails."""
    check_free(folder)
    folder = folder.resolve()
    new = folder.with_name(f'.{folder.name}.{os.getpid()}')  # nobody's folder
    try:
        new.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f'{folder}: {error.strerror}; name a folder to write to') from error
    try:
        yield new
        if folder.exists():
            folder.rmdir()
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
