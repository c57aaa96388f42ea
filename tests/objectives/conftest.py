"""A vocabulary of twenty ids for the objectives' literal tests."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from t5x_lite.data.vocabularies import VocabularyInfo

PIECES = ('<pad>', '</s>', '<unk>', '[CLS]', '[SEP]', '[MASK]', '\n', '.', '▁Mr', '"')
PIECES += tuple('▁' + letter for letter in 'abABCDE') + ('<extra_id_2>', '<extra_id_1>')
PIECES += ('<extra_id_0>',)


@pytest.fixture(scope='session')
def vocabulary() -> VocabularyInfo:
    """pad 0, eos 1, unk 2, cls 3, sep 4, mask 5; text 6-16; sentinels 19, 18, 17."""
    special = np.isin(np.arange(20), [0, 1, 2, 3, 4, 5, 17, 18, 19])
    widths = [0 if s else len(p) for s, p in zip(special, PIECES, strict=True)]
    return VocabularyInfo(
        size=20,
        pad=0,
        eos=1,
        unk=2,
        bos=None,
        cls=3,
        sep=4,
        mask=5,
        sentinels=(19, 18, 17),
        modes={},
        special=special,
        bytes_per_token=np.array(widths, np.int32),
        pieces=PIECES,
    )
