"""A run's folder opened for use: weights on a mesh, its vocabulary, and rows through the model."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from t5x_lite import checkpoint, config, sharding
from t5x_lite.data.vocabularies import VocabularyInfo, describe
from t5x_lite.errors import ConfigError, nearest
from t5x_lite.evaluation import batches
from t5x_lite.interop import exchange, files, kept_files

_TOKENS = '_input_tokens'  # the arrays of a batch that go through a stack


class Opened:
    """What every kind of inference needs of a run, trained or imported; see `Session`.

    Attributes:
      model: its ModelConfig. heads: head values by name. experiment: None if it was imported.
      info: the vocabulary's numbers. step: of the checkpoint.
    """

    def __init__(self, run: Path, step: int | None, mesh: sharding.MeshShape, batch_size: int):
        trained = run / 'experiment.py'
        self.experiment = config.load(trained).experiment if trained.exists() else None
        if self.experiment is None:
            own = exchange.architecture_of(run)
        else:
            own = exchange.architecture(self.experiment)
        self.run, self.model, self.heads = run, own.model, own.heads
        self.mesh = sharding.make_mesh(mesh)
        self._rules = sharding.RULES if self.experiment is None else self.experiment.rules
        self._batch_size = batch_size
        abstract = exchange.abstract_model(own)
        self._prompt = 0 if abstract.prompt is None else abstract.prompt.embedding.shape[0]
        self._graph = nnx.graphdef(abstract)
        where = sharding.shardings(abstract, self.mesh, self._rules)
        place = lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)
        like = jax.tree.map(place, nnx.to_pure_dict(nnx.state(abstract)), where)
        self.step, self._params = checkpoint.read_params(run / 'checkpoints', step, like)
        self._compiled = functools.cache(self._compile)
        self.vocabulary_of = functools.cache(self._vocabulary_of)

    # -- text -------------------------------------------------------------------------------------

    @functools.cached_property
    def vocabulary(self):
        """The seqio.Vocabulary: that of the data a run was trained on, or of the imported files."""
        if self.experiment is None:
            folder = self.run / kept_files.FOLDER
            if not folder.is_dir():
                raise ConfigError(
                    f'{self.run}: was imported without tokenizer files; copy them to {folder}'
                )
            from t5x_lite.data import seqio_source

            seqio_source.import_seqio()  # first, and quietly
            from t5x_lite.data import hf_vocabulary

            return hf_vocabulary.from_folder(folder)
        return self.vocabulary_of(next(iter(self.experiment.streams)))

    def _vocabulary_of(self, stream: str):
        """The vocabulary of the last feature that a stream's objective reads."""
        from t5x_lite.data import seqio_source

        own = self.experiment
        return seqio_source.text_vocabulary(own.streams[stream], own.imports)

    @functools.cached_property
    def info(self) -> VocabularyInfo:
        return describe(self.vocabulary)

    def ids(self, text: str) -> list[int]:
        """The text's ids, without marks around them."""
        if not isinstance(text, str):
            raise ConfigError(f'a text must be a string, not {text!r:.60}')
        return [int(i) for i in self.vocabulary.encode(text)]

    def framed(self, text: str | list[int], max_length: int | None = None) -> list[int]:
        """A row of one text: `[CLS] text [SEP]`; `text EOS` of T5's kind; `BOS text` of a decoder.

        Cut to `max_length`, marks included, if it is given.

        Raises:
          ConfigError: the text has no token, or more than the model has positions.
        """
        ids = self.ids(text) if isinstance(text, str) else text
        front, end = self.marks
        if not ids:
            raise ConfigError('the text is empty; give it a word')
        room = None if max_length is None else max(1, max_length - len(front) - len(end))
        row = [*front, *ids[:room], *end]
        self.check_length(len(row))
        return row

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        """The ids that stand in front of a row of one text, and behind it."""
        info, t5 = self.info, self.model.decoder_layers > 0 and self.experiment is not None
        if not self.model.encoder_layers:
            return [self.start], []
        if None in (info.cls, info.sep) or t5:
            return [], [] if info.eos is None else [info.eos]
        return [info.cls], [info.sep]

    @property
    def longest_row(self) -> int | None:
        """How many tokens a row can have: all positions, else the most in training, if known."""
        streams = {} if self.experiment is None else self.experiment.streams
        specs = (stream.spec().items() for stream in streams.values())
        rows = [shape[-1] for spec in specs for name, (shape, _) in spec if name.endswith(_TOKENS)]
        return self.most or max(rows, default=None)

    @property
    def most(self) -> int | None:
        """The positions that a text may take: all but those of a learned prompt; None: any."""
        every = self.model.positions.max_length
        return None if every is None else every - self._prompt

    def check_length(self, length: int) -> None:
        """ConfigError unless the model has that many positions for a text."""
        if self.most is not None and length > self.most:
            prompt = f' beside the {self._prompt} of its prompt' if self._prompt else ''
            raise ConfigError(
                f'the text takes {length} positions, the model has {self.most}{prompt}; shorten it '
                '(or its continuation), or cut it by max_length'
            )

    @property
    def start(self) -> int:
        """The id that a decoder's row begins with."""
        if self.experiment is None:
            path = self.run / kept_files.FOLDER / 'config.json'
            said = files.read_json(path).get('decoder_start_token_id') if path.exists() else None
            if said is not None:
                return said
        return self.info.start

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and segments [n, L] of rows of ids; L a power of two, or all positions."""
        return batches.padded(rows, self.most)

    # -- choices ----------------------------------------------------------------------------------

    def stream(self, name: str | None, fits: Callable[[Any], bool], what: str) -> str:
        """The name of the stream, or of the only one whose objective `fits`."""
        streams = {} if self.experiment is None else self.experiment.streams
        found = [own for own, stream in streams.items() if fits(stream.objective)]
        if not found:
            raise ConfigError(
                f'{self.run}: has no {what}; its streams: {", ".join(streams) or "none"}, '
                f'its heads: {", ".join(self.heads) or "none"}'
            )
        if name is None and len(found) > 1:
            raise ConfigError(
                f'{self.run}: several streams have a {what}: {", ".join(found)}; name one'
            )
        if name is not None and name not in found:
            raise ConfigError(f"stream '{name}': has no {what}; {nearest(name, found)}")
        return name or found[0]

    def head(self, name: str | None, kind: type, what: str) -> str | None:
        """The name of the head, or of the only one of that kind; None if there is none."""
        found = [own for own, head in self.heads.items() if isinstance(head, kind)]
        if name is not None and name not in found:
            raise ConfigError(f"head '{name}': is no {what} of {self.run}; {nearest(name, found)}")
        if name is None and len(found) > 1:
            raise ConfigError(
                f'{self.run}: has several heads of {what}: {", ".join(found)}; name one'
            )
        return name or next(iter(found), None)

    # -- rows -------------------------------------------------------------------------------------

    def compute(self, function: Callable, rows: Mapping[str, np.ndarray], **static) -> dict:
        """`function(model, batch, **static)`, arrays [n, ...] by name, of all n rows, on the host.

        Batch by batch; the last one is filled up by rows that are dropped again.
        """
        wanted = min(self._batch_size, batches.power_of_two(len(next(iter(rows.values())))))
        run = self._compiled(function, tuple(sorted(static.items())))
        put = lambda batch: sharding.put_batch(batch, self.mesh, self._rules)
        return batches.in_batches(
            lambda batch: run(self._params, put(batch)),
            rows,
            batches.batch_size(wanted, self.mesh, self._rules),
        )

    def _compile(self, function, static):
        def call(params, batch):
            with sharding.active(self.mesh, self._rules):
                return function(nnx.merge(self._graph, params), batch, **dict(static))

        return jax.jit(call, out_shardings=sharding.whole(self.mesh))
