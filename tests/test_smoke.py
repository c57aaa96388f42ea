"""The tiny twin: every shipped config shrinks; it trains, evaluates, saves and resumes on a CPU."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import shutil
from collections import defaultdict
from pathlib import Path

import jax
import pytest

from t5x_lite import beginning, config, main, smoke, step
from t5x_lite.data import noise
from t5x_lite.evaluate import LossEval
from t5x_lite.experiment import Checkpoints, Experiment, Stream
from t5x_lite.model.config import ModelConfig
from t5x_lite.objectives.causal_lm import causal_lm
from t5x_lite.objectives.distillation import Teacher, distilled
from t5x_lite.objectives.span_corruption import span_corruption
from t5x_lite.optim import AdamW
from t5x_lite.schedules import Cosine, Linear, Rsqrt, WarmupStableDecay
from t5x_lite.sharding import MeshShape
from t5x_lite.warm_start import from_checkpoint

PROJECT = Path(__file__).resolve().parent.parent
PATTERNS = ('configs/runs/*.gin', 'configs/smoke/*.gin', 'experiments/**/*.py')
CONFIGS = sorted(str(f.relative_to(PROJECT)) for p in PATTERNS for f in PROJECT.glob(p))
TRAINED = [n for n in CONFIGS if n.endswith('.gin') or 'recipes' in n]  # not their equal twins
TYPICAL = ('configs/runs/gpt2_small_c4.gin',)


@pytest.fixture(autouse=True)
def in_project(monkeypatch):
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv('TFDS_DATA_DIR', raising=False)


def experiment(**changes) -> Experiment:
    """Large, and with something in every place that shrinks."""
    sizes = dict(vocab=32_000, embed=1024, heads=16, mlp=4096, dtype='bfloat16', unroll=8)
    stream = Stream(
        mixture='mine',
        objective=causal_lm(weight=Linear(peak=1.0, warmup=500, steps=1000)),
        lengths={'targets': 512},
        batch_size=64,
        weight=Cosine(peak=1.0, warmup=100, steps=2000),
    )
    fields = dict(
        model=ModelConfig(**sizes, decoder_layers=12, kv_heads=8, head_size=64),
        streams={'clm': stream},
        optimizer=AdamW(
            learning_rate=WarmupStableDecay(peak=1e-3, warmup=500, steps=1000, decay=500)
        ),
        steps=1000,
        mesh=MeshShape(fsdp=4, model=2),
        microbatches=8,
        checkpoint=Checkpoints(every=500, keep_every=100),
        imports=('my_tasks',),
    )
    return Experiment(**fields | changes)


@pytest.mark.parametrize('name', CONFIGS)
def test_every_shipped_config_shrinks_to_a_valid_small_experiment(name):
    old = config.load(name).experiment
    small = smoke.shrink(old)
    small.check_devices(jax.device_count())
    assert sum(x.size for x in jax.tree.leaves(step.abstract_model(small))) < 2_000_000
    assert small.steps == smoke.STEPS
    assert all(s.mixture in smoke.TEXT_MIXTURES for s in small.streams.values())
    assert all(sum(s.lengths.values()) <= 2 * smoke.LENGTH for s in small.streams.values())
    assert set(small.evals) == set(old.evals) and small.evals
    assert all(e.every <= smoke.EVERY for e in small.evals.values())
    assert small.checkpoint.every <= smoke.EVERY
    assert smoke.shrink(small) == small


def test_sizes_shrink_and_ratios_stay():
    model = smoke.shrink(experiment()).model
    assert (model.heads, model.groups, model.head_size) == (4, 2, 16)
    assert (model.embed, model.mlp, model.decoder_layers, model.encoder_layers) == (64, 128, 2, 0)
    assert (model.dtype, model.unroll) == ('float32', None)


def test_what_is_small_already_stays():
    tiny = ModelConfig(vocab=50, embed=48, heads=6, kv_heads=3, mlp=32, decoder_layers=1)
    small = smoke.shrink(experiment(model=tiny, steps=7, log_every=2))
    assert small.model == tiny
    assert (small.steps, small.log_every) == (7, 2)


def test_batches_divide_over_devices_microbatches_and_data_shards():
    small = smoke.shrink(experiment(data_shards=32))
    assert (small.microbatches, small.data_shards, small.mesh) == (2, 8, MeshShape())
    assert small.streams['clm'].batch_size == 2 * jax.device_count()


def test_schedules_run_in_fewer_steps():
    small = smoke.shrink(experiment())
    stream = small.streams['clm']
    assert small.optimizer.learning_rate == WarmupStableDecay(
        peak=1e-3, warmup=15, steps=30, decay=15
    )
    assert stream.weight == Cosine(peak=1.0, warmup=3, steps=60)
    assert stream.objective.terms['causal_lm'].weight == Linear(peak=1.0, warmup=15, steps=30)
    assert smoke.rescale(Rsqrt(), 30, 1000) == Rsqrt()


def test_a_teacher_shrinks_with_its_student_and_needs_no_weights():
    sizes = dict(vocab=32_000, embed=768, heads=12, mlp=3072)
    wide = Teacher(
        model=ModelConfig(**sizes | dict(embed=1024, heads=16), decoder_layers=24),
        init=from_checkpoint('of no run'),
    )
    learned = distilled(objective=causal_lm(), teacher=wide, hidden=1.0, project=True)
    large = experiment()
    stream = dataclasses.replace(large.streams['clm'], objective=learned, mixture='lm1b')
    small = smoke.shrink(
        dataclasses.replace(
            large,
            model=ModelConfig(**sizes, decoder_layers=6),
            streams={'clm': stream},
            imports=('t5x_lite.data.tasks.lm1b',),
            evals={'loss': LossEval(objectives={'clm': learned})},
        )
    )
    [teacher] = small.teachers.values()
    assert (teacher.model.vocab, teacher.model.embed, teacher.init) == (8192, 64, None)
    assert small.heads['distill_hidden'].width == 64
    assert beginning.open_init(small) is None


def test_lengths_stay_long_enough_for_the_objective():
    """Nearly all of the text is noise: 100 inputs hide so much that no shorter targets hold it."""
    _, targets = noise.raw_length(100, 0.9, 50.0)
    stream = Stream(
        mixture='mine',
        objective=span_corruption(density=0.9, mean_span=50.0),
        lengths={'inputs': 100, 'targets': targets},
        batch_size=8,
    )
    both = ModelConfig(vocab=99, embed=64, heads=4, mlp=64, encoder_layers=1, decoder_layers=1)
    small = smoke.shrink(experiment(streams={'span': stream}, model=both)).streams['span']
    assert targets > 5 * smoke.LENGTH
    assert small.lengths == stream.lengths


def test_mixtures_without_data_are_replaced_and_others_stay():
    c4 = dict(imports=('t5x_lite.data.tasks.c4',))
    replaced = smoke.shrink(experiment(**c4))
    assert replaced.streams['clm'].mixture == 'corpus_en_pd'
    assert replaced.imports == (*c4['imports'], 't5x_lite.data.tasks.corpus_en_pd')
    assert replaced.model.vocab == 8192
    for kept in (smoke.shrink(experiment(**c4), data_dir=True), smoke.shrink(experiment())):
        assert kept.streams['clm'].mixture == 'mine'
        assert kept.model.vocab == 32_000


def test_explain_tells_what_smoke_changed(capsys):
    main.main(['config', 'configs/runs/t5_1_1_large_c4.gin', '--smoke'])
    out, err = capsys.readouterr()
    line = {x.split('=')[0].strip(): x for x in out.splitlines()}
    assert line['embed'].endswith('# --smoke')
    assert line['gated'].endswith('t5_1_1_large.gin:9')
    assert 'c4_en' in err and '--tfds_data_dir=DIR' in err
    assert err.count('\n') == 1


def written(folder: Path) -> dict[str, dict[int, float]]:
    """{metric: {step: value}} of a run, the last value of a step."""
    values = defaultdict(dict)
    for line in map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines()):
        for name, value in line.items():
            values[name][line['step']] = value
    return values


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=() if n in TYPICAL else pytest.mark.all) for n in TRAINED]
)
def test_the_tiny_twin_trains_evaluates_saves_and_resumes(name, tmp_path, capsys):
    command = ['train', name, '--smoke', '--run', str(tmp_path)]
    main.main(command)
    small = config.load(tmp_path / 'experiment.py').experiment
    assert small == smoke.shrink(config.load(name).experiment)
    first = written(tmp_path)
    assert list(first['train/loss']) == [5, 10, 15, 20, 25, 30]
    for stream in small.streams:
        evaluated = [name for name in first if name.startswith(f'eval/{stream}/')]
        assert evaluated
        assert all(list(first[name]) == [10, 20, 30] for name in evaluated)
    assert (tmp_path / 'report.html').exists()

    shutil.rmtree(tmp_path / 'checkpoints/30')
    capsys.readouterr()
    main.main(command)
    assert 'resuming from step 20' in capsys.readouterr().out
    again = written(tmp_path)
    assert all(again[n] == first[n] for n in first if n.startswith(('train/', 'eval/')))

    main.main(['eval', str(tmp_path)])
    assert capsys.readouterr().out.startswith('step 30')
