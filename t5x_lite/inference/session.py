"""Session: a trained run or an imported model in Python: generate, score, classify, fill, embed."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from pathlib import Path

from t5x_lite.inference.classify import Classify
from t5x_lite.inference.embed import Embed
from t5x_lite.inference.fill import Fill
from t5x_lite.inference.generate import Generate
from t5x_lite.inference.opened import Opened
from t5x_lite.inference.score import Score
from t5x_lite.inference.verbs import run_all
from t5x_lite.sharding import MeshShape


class Session:
    """A run's folder, of `t5x-lite train` or of `t5x-lite ckpt import`, ready to use.

        from t5x_lite.inference.session import Session

        session = Session('runs/clm')
        session.generate(['It was a dark night'], length=40)

    Every method takes a list of examples, strings or dicts, and gives a dict for each; settings are
    the fields of the value of that name (inference/generate.py and so on). What an example gives
    does not depend on those beside it.

    Args:
      run: the folder. step: of the checkpoint; the newest if None.
      mesh: over this machine's devices; by default each has the whole model and some of the rows.
      batch_size: rows that go through the model at once.

    Raises:
      ConfigError: no run is there; an example or a setting that cannot be used.
      RunError: no checkpoint that can be read.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        step: int | None = None,
        mesh: MeshShape = MeshShape(),  # noqa: B008  a frozen value
        batch_size: int = 32,
    ):
        self.opened = Opened(Path(run), step, mesh, batch_size)

    def generate(self, examples: Sequence, **settings) -> list[dict]:
        """Continuations of prompts, or what an encoder-decoder writes for inputs; see Generate."""
        return run_all(Generate(**settings), self.opened, examples)

    def score(self, examples: Sequence, **settings) -> list[dict]:
        """Log-probabilities of texts, or of {'inputs', 'targets'}; see Score."""
        return run_all(Score(**settings), self.opened, examples)

    def classify(self, examples: Sequence, **settings) -> list[dict]:
        """What a fine-tuned run predicts; see Classify."""
        return run_all(Classify(**settings), self.opened, examples)

    def fill(self, examples: Sequence, **settings) -> list[dict]:
        """The likeliest tokens for each `[MASK]`; see Fill."""
        return run_all(Fill(**settings), self.opened, examples)

    def embed(self, examples: Sequence, **settings) -> list[dict]:
        """Unit vectors; see Embed."""
        return run_all(Embed(**settings), self.opened, examples)
