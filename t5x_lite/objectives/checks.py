"""What converters ask of lengths and vocabulary, with one message for each."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping

from t5x_lite.errors import ConfigError, nearest


def check_lengths(
    objective: str, lengths: Mapping[str, int], least: Mapping[str, int], why: str
) -> None:
    """ConfigError unless lengths has exactly the keys of `least`, each of at least that length."""
    wanted = ', '.join(f"'{name}': ..." for name in least)
    for name in lengths:
        if name not in least:
            raise ConfigError(
                f'{objective}: lengths has an unknown feature {name!r}; {nearest(name, least)}; '
                f'write lengths={{{wanted}}}'
            )
    for name, smallest in least.items():
        if name not in lengths:
            raise ConfigError(
                f'{objective}: lengths={dict(lengths)} must have {name!r}; '
                f'write lengths={{{wanted}}}'
            )
        if lengths[name] < smallest:
            raise ConfigError(
                f'{objective}: lengths[{name!r}]={lengths[name]} must be {smallest} or more '
                f'({why}); try {smallest}'
            )


def check_ids(objective: str, vocabulary, *names: str) -> None:
    """ConfigError unless the vocabulary has ids of all these names."""
    missing = [name for name in names if getattr(vocabulary, name) is None]
    if missing:
        raise ConfigError(
            f'{objective}: the vocabulary of {vocabulary.size} ids has no {missing[0]} id, but the '
            f'objective needs {", ".join(names)}; use a vocabulary that has them, such as '
            't5x_lite.data.vocabularies.bundled()'
        )


def check_share(objective: str, field: str, value: float, default: float) -> None:
    """ConfigError unless the value is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f'{objective}: {field}={value} must be in [0, 1]; try {default}')


def check_label(objective: str, feature: str, value, labels: int) -> None:
    """ConfigError, when data is read, for a label that the head does not know."""
    if value < 0 or value >= labels or value != int(value):
        hidden = '; this split hides its labels, read another' if value == -1 else ''
        raise ConfigError(
            f'{objective}: feature {feature!r} holds {value}, but labels={labels} knows 0 to '
            f'{labels - 1}; set labels={int(max(value, labels)) + 1}, or mend the task{hidden}'
        )
