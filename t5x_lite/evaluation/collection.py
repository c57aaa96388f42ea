"""A collection to search: queries, documents and which are relevant, as files in BEIR's layout."""
# SPDX-License-Identifier: Apache-2.0

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from t5x_lite.errors import RunError
from t5x_lite.evaluation.reading import Problems, lines, objects, string

HEADER = ('query-id', 'corpus-id', 'score')


@dataclass(frozen=True)
class Collection:
    """Texts by id, and {query: {document: grade}}; a grade of 0 or less is not relevant."""

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    grades: Mapping[str, Mapping[str, int]]

    def limited(self, queries: int | None, documents: int | None) -> 'Collection':
        """The first queries, and their relevant documents with the first others up to a number.

        A smaller search, easier than the whole one: for a look while a model trains.
        """
        grades = dict(list(self.grades.items())[:queries])
        needed = {doc for own in grades.values() for doc, grade in own.items() if grade > 0}
        room = None if documents is None else max(0, documents - len(needed))
        others = [doc for doc in self.documents if doc not in needed][:room]
        kept = needed.union(others)
        return Collection(
            {query: self.queries[query] for query in grades},
            {doc: text for doc, text in self.documents.items() if doc in kept},
            {q: {d: g for d, g in own.items() if d in kept} for q, own in grades.items()},
        )

    def write(self, folder: Path, split: str = 'test') -> None:
        """corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; RunError if they cannot be written."""
        as_lines = lambda examples: ''.join(json.dumps(e) + '\n' for e in examples)
        table = ['\t'.join(HEADER)]
        for query, own in self.grades.items():
            table += [f'{query}\t{doc}\t{grade}' for doc, grade in own.items()]
        documents = ({'_id': i, 'title': '', 'text': t} for i, t in self.documents.items())
        queries = ({'_id': i, 'text': t} for i, t in self.queries.items())
        try:
            (folder / 'qrels').mkdir(parents=True, exist_ok=True)
            (folder / 'corpus.jsonl').write_text(as_lines(documents), encoding='utf-8')
            (folder / 'queries.jsonl').write_text(as_lines(queries), encoding='utf-8')
            (folder / f'qrels/{split}.tsv').write_text('\n'.join(table) + '\n', encoding='utf-8')
        except OSError as error:
            raise RunError(f'{folder}: {error.strerror}; name a folder to write to') from error


def read(folder: Path, split: str = 'test') -> Collection:
    """The collection of a folder in BEIR's layout, of the queries that the split judges.

    A document is its title and its text; both may be empty. Source: Thakur et al. 2021.

    Raises:
      ConfigError: files or ids that are missing or twice there, lines that cannot be used; all of
        them in one message.
    """
    problems = Problems(f'SearchEval: folder={str(folder)!r}')
    documents = _texts(folder / 'corpus.jsonl', _document, problems)
    queries = _texts(folder / 'queries.jsonl', _query, problems)
    grades = _grades(folder / f'qrels/{split}.tsv', queries, documents, problems)
    problems.check()
    if not any(grade > 0 for own in grades.values() for grade in own.values()):
        problems.add(f'qrels/{split}.tsv', 'names no relevant document')
        problems.check()
    return Collection({query: queries[query] for query in grades}, documents, grades)


def _texts(path: Path, text_of, problems: Problems) -> dict[str, str]:
    found = {}
    for where, example in objects(path, problems):
        name = example.get('_id')
        if not isinstance(name, str | int) or isinstance(name, bool):
            problems.add(where, f'_id={name!r:.40} must be text')
        elif str(name) in found:
            problems.add(where, f'_id={name!r} is there already')
        else:
            found[str(name)] = text_of(example, where, problems)
    return found


def _query(example: dict, where: str, problems: Problems) -> str:
    return string(example, 'text', where, problems) or ''


def _document(example: dict, where: str, problems: Problems) -> str:
    parts = [example.get('title') or '', example.get('text')]
    for name, value in zip(('title', 'text'), parts, strict=True):
        if not isinstance(value, str):
            problems.add(where, f'{name}={value!r:.40} must be text')
            return ''
    return ' '.join(part for part in parts if part)


def _grades(path: Path, queries, documents, problems: Problems) -> dict[str, dict[str, int]]:
    found, first = {}, True
    for where, line in lines(path, problems):
        query, document, grade, *more = (*line.split('\t'), *[''] * 3)
        header, first = first and not _is_integer(grade), False
        if header:
            continue
        if any(more) or not _is_integer(grade):
            problems.add(where, f'must be a query, a document and an integer, not {line!r:.60}')
        elif query not in queries:
            problems.add(where, f'query {query!r} is not in queries.jsonl')
        elif document not in documents:
            problems.add(where, f'document {document!r} is not in corpus.jsonl')
        elif document in found.setdefault(query, {}):
            problems.add(where, f'judges document {document!r} for query {query!r} a second time')
        else:
            found[query][document] = int(grade)
    return found


def _is_integer(text: str) -> bool:
    return text.strip().removeprefix('-').isdecimal()
