"""The run report shows what the run folder says, whatever state the folder is in."""
# SPDX-License-Identifier: Apache-2.0

import json
import random
import re
import time

import numpy as np
import pytest

from t5x_lite.errors import ConfigError, RunError
from t5x_lite.metrics import load_metrics
from t5x_lite.report import MAX_POINTS, write_report

METRICS = [
    {'step': 0, 'time': 1000.0, 'eval/clm/loss': 9.01, 'eval/clm/bits_per_byte': 4.5},
    {'step': 10, 'time': 1030.0, 'train/clm/loss': 7.25, 'perf/tokens_per_second': 1500.0},
    {'step': 20, 'time': 1090.0, 'train/clm/loss': 6.125, 'perf/data_wait_share': 0.25},
    {
        'step': 20,
        'time': 1091.0,
        'eval/clm/loss': 6.5,
        'eval/clm/bits_per_byte': 2.625,
        'eval/clm/unigram_bits_per_byte': 2.11,
    },
]
RUN = {
    'name': 'clm & friends',
    'parameters': 6_293_760,
    'tokens_per_step': 8192,
    'steps': 40,
    'mesh': {'data': 2, 'fsdp': 1},
}


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def page(run_dir):
    return write_report(run_dir).read_text(encoding='utf-8')


def charts(text):
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    return {chart['name']: chart for chart in data}


@pytest.fixture
def run_dir(tmp_path):
    write_lines(tmp_path / 'metrics.jsonl', METRICS)
    (tmp_path / 'run.json').write_text(json.dumps(RUN))
    (tmp_path / 'experiment.py').write_text('experiment = Experiment(steps=40)\n')
    sample = {'stream': 'clm', 'prompt': 'It was', 'output': 'late', 'target': 'the best'}
    write_lines(tmp_path / 'samples.jsonl', [{'step': 0} | sample, {'step': 20} | sample])
    return tmp_path


def test_the_page_shows_the_numbers_of_the_run(run_dir):
    text = page(run_dir)
    assert '<title>clm &amp; friends</title>' in text
    assert '<strong>2.625</strong><p>−1.875 since step 0 · unigram 2.11</p>' in text
    for value, label in (
        ('6.294M', 'parameters'),
        ('163.8k', 'tokens seen'),
        ('1500', 'tokens/s, median'),
        ('0:01:31', 'wall time, first to last log line'),
        ('25.0 %', 'waiting for data, mean'),
    ):
        assert f'<dd>{value}</dd><dt>{label}</dt>' in text
    assert 'Step 20 of 40' in text
    assert 'data 2, fsdp 1' in text
    assert 'experiment = Experiment(steps=40)' in text
    assert text.index('Step 20</summary>') < text.index('Step 0</summary>')


def test_train_and_eval_of_one_metric_share_a_chart_and_losses_come_first(run_dir):
    found = charts(page(run_dir))
    assert [line['split'] for line in found['clm/loss']['lines']] == ['train', 'eval']
    assert found['clm/loss']['lines'][0] == {
        'split': 'train', 'x': [10, 20], 'y': [7.25, 6.125], 'dropped': 0
    }  # fmt: skip
    assert found['clm/bits_per_byte']['baselines'] == {'unigram': 2.11}
    assert 'clm/unigram_bits_per_byte' not in found
    groups = [chart['group'] for chart in found.values()]
    assert groups == ['Losses', 'Losses', 'Performance', 'Performance']


def test_the_page_needs_nothing_from_outside(run_dir):
    text = page(run_dir)
    assert re.findall(r'(?:src|href)=|@import|url\((?!#)', text) == []
    assert sorted(path.name for path in run_dir.iterdir()) == [
        'experiment.py', 'metrics.jsonl', 'report.html', 'run.json', 'samples.jsonl'
    ]  # fmt: skip


def test_after_a_resume_the_later_lines_win(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    rows = [(10, 'train/loss', 3.0), (20, 'train/loss', 2.0), (20, 'eval/clm/loss', 2.5)]
    rows += [(10, 'train/loss', 3.0), (20, 'train/loss', 1.5)]
    write_lines(path, [{'step': step, name: value} for step, name, value in rows])
    assert load_metrics(path) == [
        {'step': 10, 'train/loss': 3.0},
        {'step': 20, 'train/loss': 1.5, 'eval/clm/loss': 2.5},
    ]


@pytest.mark.parametrize('tail', ['{"step": 30, "train/l', '{"step": 30, "trai\n', '\0\0\0'])
def test_a_half_written_last_line_is_ignored(run_dir, tail):
    path = run_dir / 'metrics.jsonl'
    whole = load_metrics(path)
    path.write_text(path.read_text() + tail)
    assert load_metrics(path) == whole
    assert '<strong>2.625</strong>' in page(run_dir)


def test_a_last_line_cut_inside_a_letter_is_ignored(run_dir):
    path = run_dir / 'samples.jsonl'
    path.write_bytes(path.read_bytes() + '{"step": 40, "output": "é'.encode()[:-1])
    assert 'Step 20</summary>' in page(run_dir)


@pytest.mark.parametrize('broken', ['{"step": 1', '[1, 2]', '{"loss": 2.0}', '{"step": "1"}'])
def test_a_broken_line_in_the_middle_is_an_error_that_names_it(run_dir, broken):
    path = run_dir / 'metrics.jsonl'
    path.write_text('{"step": 0}\n' + broken + '\n{"step": 2}\n')
    with pytest.raises(RunError, match=r'metrics\.jsonl, line 2: '):
        write_report(run_dir)
    assert not (run_dir / 'report.html').exists()


def test_a_damaged_run_json_is_an_error_that_names_it(run_dir):
    (run_dir / 'run.json').write_text('{"name": ')
    with pytest.raises(RunError, match=r'run\.json: not JSON'):
        write_report(run_dir)


def test_an_empty_folder_gives_a_page_and_a_missing_one_an_error(tmp_path):
    text = page(tmp_path)
    assert f'<title>{tmp_path.name}</title>' in text
    assert 'No metrics yet.' in text
    assert charts(text) == {}
    with pytest.raises(ConfigError, match='not a folder'):
        write_report(tmp_path / 'nowhere')


@pytest.mark.parametrize('name', ['metrics.jsonl', 'run.json', 'experiment.py', 'samples.jsonl'])
def test_any_one_file_may_be_missing(run_dir, name):
    (run_dir / name).unlink()
    text = page(run_dir)
    assert ('<strong>2.625</strong>' in text) == (name != 'metrics.jsonl')
    assert ('6.294M' in text) == (name != 'run.json')
    assert ('Experiment(steps=40)' in text) == (name != 'experiment.py')
    assert ('the best' in text) == (name != 'samples.jsonl')


def test_nothing_in_the_run_folder_becomes_markup(run_dir):
    evil = '</script><script>alert(1)</script>{{data}}'
    write_lines(run_dir / 'metrics.jsonl', [{'step': 1, f'train/{evil}': 1.0, f'eval/{evil}': 2.0}])
    write_lines(run_dir / 'samples.jsonl', [{'step': 1, 'stream': evil, 'output': evil}])
    run = {'name': evil, 'description': evil, evil: {evil: evil}}
    (run_dir / 'run.json').write_text(json.dumps(run))
    (run_dir / 'experiment.py').write_text(f'# {evil}\n')
    text = page(run_dir)
    assert '<script>alert' not in text
    assert text.count('</script>') == 2
    assert text.count('&lt;script&gt;alert(1)&lt;/script&gt;{{data}}') >= 8
    assert list(charts(text)) == [evil]


def test_values_that_are_not_finite_are_counted_and_not_drawn(tmp_path):
    rows = [{'step': i, 'train/loss': v} for i, v in enumerate([2.0, float('nan'), float('inf')])]
    write_lines(tmp_path / 'metrics.jsonl', rows)
    line = charts(page(tmp_path))['loss']['lines'][0]
    assert (line['x'], line['y'], line['dropped']) == ([0], [2.0], 2)


def test_long_curves_keep_their_ends_and_extremes_and_a_mean_is_drawn_through_noise(tmp_path):
    y = np.random.default_rng(0).normal(size=7001) + 5
    y[3210], y[4321] = 90.0, -90.0
    rows = [{'step': i, 'train/grad_norm': v, 'train/learning_rate': i} for i, v in enumerate(y)]
    write_lines(tmp_path / 'metrics.jsonl', rows)
    found = charts(page(tmp_path))
    line = found['grad_norm']['lines'][0]
    assert len(line['x']) <= MAX_POINTS
    kept = dict(zip(line['x'], line['y'], strict=True))
    assert kept[3210] == 90.0 and kept[4321] == -90.0
    np.testing.assert_allclose([kept[0], kept[7000]], [y[0], y[-1]], rtol=1e-5)
    smooth = line['smooth']
    assert len(smooth['x']) <= MAX_POINTS
    quiet = [v for x, v in zip(smooth['x'], smooth['y'], strict=True) if x < 3000]
    assert np.std(quiet) < 0.2 and abs(np.mean(quiet) - 5) < 0.1
    assert 'smooth' not in found['learning_rate']['lines'][0]


def test_ten_thousand_lines_take_a_moment_and_a_small_file(tmp_path):
    noise = random.Random(0).random
    names = [f'train/{name}' for name in 'abcdefgh'] + ['perf/host_ms']
    rows = ({'step': i, 'time': i} | {name: noise() for name in names} for i in range(10_000))
    write_lines(tmp_path / 'metrics.jsonl', rows)
    start = time.process_time()
    path = write_report(tmp_path)
    assert time.process_time() - start < 0.9  # 0.15 s on an idle machine
    assert path.stat().st_size < 500_000


def test_time_is_shown_as_bars_of_the_line_written_last_and_not_as_curves(run_dir):
    parts = dict(start=20.0, step=60.0, data=4.0, eval=10.0, save=5.0, rest=1.0)
    account = {f'perf/time/{name}': seconds for name, seconds in parts.items()}
    stages = {'perf/start/import': 4.0, 'perf/start/compile': 12.0}
    rows = [
        *METRICS,
        {'step': 30, **account, 'perf/time/step': 90.0},  # of a start that was killed
        {'step': 21, **stages, 'perf/start/data_in_thread': 9.0},
        {'step': 22, **account},
    ]
    write_lines(run_dir / 'metrics.jsonl', rows)
    text = page(run_dir)
    assert '<h3>The run: 100.0 s</h3>' in text
    assert '</i>waiting for data</th><td>4.0 s</td><td>4.0%</td>' in text
    assert '<h3>Its last start, to the first step: 16.0 s</h3>' in text
    assert '</i>compiles the step</th><td>12.0 s</td><td>75.0%</td>' in text
    assert not [name for name in charts(text) if name.startswith(('time', 'start/'))]


def test_run_without_an_account_of_its_time_shows_none(run_dir):
    assert '<section class="time"></section>' in page(run_dir)
