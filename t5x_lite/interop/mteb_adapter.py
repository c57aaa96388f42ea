"""A run as an encoder of MTEB, the embedding benchmark: sentence vectors for its tasks."""
# SPDX-License-Identifier: Apache-2.0
# Written for mteb 2.26.24: mteb.models.models_protocols.EncoderProtocol.

import numpy as np

from t5x_lite.errors import ConfigError
from t5x_lite.evaluation.batches import by_length
from t5x_lite.inference.embed import Embed
from t5x_lite.inference.session import Session

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.types import PromptType
except ImportError as error:
    raise ConfigError(
        f"mteb_adapter: mteb cannot be imported ({error}); pip install 't5x_lite[mteb]'"
    ) from error


class SessionEncoder(AbsEncoder):
    """A session's unit vectors for `mteb.evaluate(SessionEncoder(session), tasks)`.

    Texts are read as `Session.embed` reads them, without instructions. Longer ones are cut to
    `max_length` tokens; empty ones, which some of its corpora have, are their marks alone. Of a
    dual encoder, queries go through its one side and documents through the other.

    Args:
      name: for mteb's results, `ORGANISATION/MODEL`; None: `t5x_lite/` and the run's folder.
      pool: as in `Embed`. max_length: None: the model's positions, or the longest row of training.
    """

    def __init__(
        self,
        session: Session,
        *,
        name: str | None = None,
        pool: str | None = None,
        max_length: int | None = None,
    ):
        opened = self._opened = session.opened
        self._pool, self._max_length = pool, max_length or opened.longest_row
        self._verb(side=0)  # refuses what does not work
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                'name': name or f't5x_lite/{opened.run.resolve().name}',
                'revision': f'step {opened.step}',
                'framework': ['JAX'],
                'max_tokens': self._max_length,
            }
        )

    def _verb(self, side: int) -> Embed:
        return Embed(pool=self._pool, side=side, max_length=self._max_length)

    def encode(
        self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **_
    ) -> np.ndarray:
        """Vectors [n, D], float32, of the texts of all batches."""
        verb = self._verb(side=int(prompt_type is PromptType.document))
        texts = [text for batch in inputs for text in batch['text']]
        rows = [verb.row(self._opened, self._opened.ids(text)) for text in texts]
        return np.stack(by_length(rows, len, lambda part: verb.vectors(self._opened, part)))
