"""Inference over a file: no line lost or twice, whatever kills it; bad lines are told apart."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
import types

import jax
import pytest
import trained

from t5x_lite import main
from t5x_lite.errors import ConfigError, RunError
from t5x_lite.evaluate import Samples
from t5x_lite.inference.classify import Classify
from t5x_lite.inference.lines import RECORD, Shard, infer
from t5x_lite.inference.opened import Opened
from t5x_lite.inference.score import Score
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.contrastive import simcse
from t5x_lite.objectives.similarity import pool_mean
from t5x_lite.retrieval import EmbedEval
from t5x_lite.run import evaluate
from t5x_lite.sharding import MeshShape

COUNT = 23


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    trained.register('texts_for_lines', trained.texts('targets'), {'targets': ['a text', 'more']})
    made = trained.experiment(causal_lm(), dict(targets=16), 'texts_for_lines')
    return trained.folder(tmp_path_factory.mktemp('run'), made, steps=(0, 3))[0]


@pytest.fixture(scope='module')
def opened(run):
    return Opened(run, None, MeshShape(), 8)


@pytest.fixture
def source(tmp_path):
    file = tmp_path / 'in.jsonl'
    lines = [json.dumps({'id': f'n{i}', 'text': f'Number {i}.'}) for i in range(COUNT)]
    file.write_text('\n'.join(lines))  # the last line may end without a newline
    return file


def told(folder) -> list[dict]:
    files = sorted(folder.glob('part-*'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


class Dying(Score):
    """Dies in its third part."""

    parts = []

    def run(self, opened, prepared, numbers):
        self.parts.append(list(numbers))
        if len(self.parts) == 3:
            raise KeyboardInterrupt
        return super().run(opened, prepared, numbers)

    def __repr__(self):
        return repr(Score())


def test_a_killed_run_goes_on_where_it_was_and_gives_the_same_bytes(opened, source, tmp_path):
    infer(opened, Score(), source, tmp_path / 'whole', part_size=5)
    with pytest.raises(KeyboardInterrupt):
        infer(opened, Dying(), source, tmp_path / 'cut', part_size=5)
    assert len(told(tmp_path / 'cut')) == 10
    said = infer(opened, Score(), source, tmp_path / 'cut', part_size=5)
    assert said.startswith('5 of 5 parts, 3 of them now')
    names = sorted(p.name for p in (tmp_path / 'whole').iterdir())
    assert names == sorted(p.name for p in (tmp_path / 'cut').iterdir()) and len(names) == 6
    for name in names:
        assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'cut' / name).read_bytes()
    found = told(tmp_path / 'whole')
    assert [one['line'] for one in found] == list(range(1, COUNT + 1))
    assert [one['id'] for one in found] == [f'n{i}' for i in range(COUNT)]


@pytest.mark.all
@pytest.mark.timeout(400)
def test_killed_at_random_it_gives_the_bytes_of_an_undisturbed_one(run, tmp_path):
    """SIGKILL, four times, to the command itself."""
    task = 'corpus_en_pd'
    made = trained.experiment(
        causal_lm(), dict(targets=16), task, imports=(f't5x_lite.data.tasks.{task}',)
    )
    folder, _ = trained.folder(tmp_path / 'run', made)
    source, out = tmp_path / 'in.jsonl', tmp_path / 'killed'
    source.write_text(''.join(json.dumps({'text': f'Number {i}.'}) + '\n' for i in range(400)))
    infer(Opened(folder, None, MeshShape(), 8), Score(), source, tmp_path / 'whole', part_size=4)
    chance, parts = random.Random(0), lambda: len(list(out.glob('part-*')))
    command = [sys.executable, '-m', 't5x_lite', 'infer', str(folder), '--input', str(source)]
    command += ['--output', str(out), '--mode', 'score', '--part-size', '4', '--batch-size', '8']
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = parts()
        while parts() <= before + chance.randint(0, 10) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        assert process.wait() == -signal.SIGKILL and before < parts() < 100
    subprocess.run(command, check=True, capture_output=True)
    names = sorted(p.name for p in (tmp_path / 'whole').iterdir())
    assert names == sorted(p.name for p in out.iterdir()) and len(names) == 101
    assert all((tmp_path / 'whole' / n).read_bytes() == (out / n).read_bytes() for n in names)


def test_machines_share_the_parts(opened, source, tmp_path):
    for index in range(2):
        infer(opened, Score(), source, tmp_path / 'out', part_size=5, shard=Shard(index, 2))
        assert len(list((tmp_path / 'out').glob('part-*'))) == (3, 5)[index]
    assert len(told(tmp_path / 'out')) == COUNT


def test_bad_lines_are_numbered_and_the_rest_goes_on(opened, source, tmp_path):
    lines = source.read_text().splitlines()
    lines[1], lines[7], lines[8] = 'no JSON', '{"id": 8, "nope": 1}', ''
    source.write_text('\n'.join(lines) + '\n')
    for _ in range(2):  # told again when there is nothing left to do
        with pytest.raises(RunError, match='could not be used: 3; the first is line 2: Exp'):
            infer(opened, Score(), source, tmp_path / 'out', part_size=10)
    found = told(tmp_path / 'out')
    assert [one['line'] for one in found if 'error' in one] == [2, 8, 9]
    assert found[7]['id'] == 8 and "have 'text' or 'inputs'" in found[7]['error']
    assert len(found) == COUNT and all('log_prob' in one for one in found if 'error' not in one)


def test_what_is_json_but_no_text_is_numbered_too(opened, source, tmp_path):
    bad = ['{"text": 5}', '{"text": ["x"]}', '{"text": null}', '[' * 100_000, '["x"]']
    source.write_text('\n'.join(['"good"', *bad, '"good"']))
    with pytest.raises(RunError, match="could not be used: 5; the first is line 2: 'text' must be"):
        infer(opened, Score(), source, tmp_path / 'out')
    found = told(tmp_path / 'out')
    assert ['error' in one for one in found] == [False, *[True] * 5, False]


def test_what_the_run_cannot_do_is_said_before_anything_is_written(opened, source, tmp_path):
    with pytest.raises(ConfigError, match='has no classifier'):
        infer(opened, Classify(), source, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_folder_without_a_part_may_be_used_for_a_mended_file(opened, source, tmp_path):
    infer(opened, Score(), source, tmp_path / 'out', shard=Shard(1, 2))  # the only part is not mine
    source.write_text('"mended"')
    infer(opened, Score(), source, tmp_path / 'out')
    assert len(told(tmp_path / 'out')) == 1


def test_a_folder_of_other_work_is_left_alone(opened, source, tmp_path):
    infer(opened, Score(), source, tmp_path / 'out')
    with pytest.raises(ConfigError, match=r'how Score\(eos=True, .*, not Score\(eos=False, '):
        infer(opened, Score(eos=False), source, tmp_path / 'out')
    source.write_text('"other"\n')
    with pytest.raises(ConfigError, match='holds parts with input'):
        infer(opened, Score(), source, tmp_path / 'out')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine').touch()
    with pytest.raises(ConfigError, match='holds other files'):
        infer(opened, Score(), source, tmp_path / 'full')
    with pytest.raises(ConfigError, match='--input .*absent: No such file'):
        infer(opened, Score(), tmp_path / 'absent', tmp_path / 'new')


def test_an_empty_file_gives_no_part(opened, tmp_path):
    (tmp_path / 'in.jsonl').touch()
    assert infer(opened, Score(), tmp_path / 'in.jsonl', tmp_path / 'out').startswith('0 of 0')
    assert [p.name for p in (tmp_path / 'out').iterdir()] == [RECORD]


def test_commands(run, source, tmp_path, capsys):
    main.main(['generate', str(run), 'Once', 'Twice', '--length', '3', '--top-k', '4'])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith('Once |') and '3 tokens, score -' in out[1] + out[-1]
    main.main(['embed', str(run), 'Once'])
    assert len(json.loads(capsys.readouterr().out)['embedding']) == 16
    target = str(tmp_path / 'out')
    infer_of = ['infer', str(run), '--input', str(source), '--output', target, '--mode', 'score']
    main.main([*infer_of, '--step', '0'])
    assert len(told(tmp_path / 'out')) == COUNT
    for more, words in (
        (['--shard', '2/2'], '--shard 2/2: must be I/N with I below N'),
        (['--step', '1'], 'no readable step 1; there are [0, 3]'),
    ):
        with pytest.raises(SystemExit):
            main.main([*infer_of, *more])
        assert words in capsys.readouterr().err


def test_eval_of_every_step_and_of_another_mixture(run, capsys):
    trained.register('others_for_lines', trained.texts('targets'), {'targets': ['zebra'] * 9})
    main.main(['eval', str(run), '--step', 'all'])
    own = capsys.readouterr().out.splitlines()
    assert [line for line in own if line.startswith('step')] == ['step 0', 'step 3']
    losses = [line for line in own if line.startswith('s/loss')]
    assert len({*losses}) == 2
    main.main(['eval', str(run), '--mixture', 'others_for_lines'])
    other = capsys.readouterr().out.splitlines()
    assert other[0] == 'step 3' and not {*losses} & {*other}
    for argument, words in (
        (['--mixture', 'x=others_for_lines'], "'x' is no stream; known: s"),
        (['--step', 'last'], "--step last: must be the number of a checkpoint, or 'all'"),
    ):
        with pytest.raises(SystemExit):
            main.main(['eval', str(run), *argument])
        assert words in capsys.readouterr().err


def test_eval_runs_every_evaluator_that_gives_numbers(tmp_path):
    text = 'One two three four five. Six seven eight nine ten. '
    trained.register('neighbours_for_lines', trained.texts('targets'), {'targets': [text * 4] * 3})
    evals = {
        'embed': EmbedEval(stream='s', pairs=8, length=16, pool=pool_mean),
        'own': Counting(),
        'samples': Samples(),
    }
    made = trained.experiment(simcse(), dict(targets=16), 'neighbours_for_lines', evals=evals)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('t5x_lite.config.load', lambda *_: types.SimpleNamespace(experiment=made))
        folder, _ = trained.folder(tmp_path / 'run', made)
        found = dict(evaluate(folder, step=None, split='validation'))
    assert {'s/recall_at_1', 's/uniformity', 'own'} < set(found) and found['own'] > 0


@dataclasses.dataclass(frozen=True)
class Counting:
    """An evaluator of a user's own: how many parameters there are."""

    every: int = 1

    def check(self, experiment) -> None:
        pass

    def open(self, experiment, mesh):
        return lambda params: [('own', sum(x.size for x in jax.tree.leaves(params)))]
