"""`check`: sizes and memory by part, names of topologies, verdicts, one message for bad input."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib.util
import math
import resource
import subprocess
import sys
from pathlib import Path

import fixtures
import jax
import pytest

from t5x_lite import (
    check,
    collectives,
    main,
    memory,
    sharding_table,
    step,
    topology,
    tpu_compile,
    verdict,
)
from t5x_lite.data import sizes
from t5x_lite.errors import ConfigError
from t5x_lite.sharding import MeshShape
from t5x_lite.verdict import Outcome

PROJECT = Path(__file__).resolve().parent.parent
CLM = str(PROJECT / 'configs/runs/clm_mini.gin')


def with_model(experiment, **changes):
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, **changes))


def estimate(experiment, devices: int) -> memory.Memory:
    return memory.estimate(experiment, sharding_table.abstract_mesh(experiment, devices))


def test_parameters_and_optimizer_are_the_rows_of_the_sharding_table():
    experiment = fixtures.experiment('span', mesh=MeshShape(data=2, fsdp=2, model=2))
    mesh = sharding_table.abstract_mesh(experiment, 8)
    found, rows = memory.estimate(experiment, mesh), list(sharding_table.rows(experiment, mesh))
    params = sum(row.bytes for row in rows if not row.path.startswith(('opt_state', 'step')))
    assert found.parameters == found.gradients == params
    assert found.parameters + found.optimizer == sum(row.bytes for row in rows)


def test_a_checkpoint_is_the_whole_state():
    experiment = fixtures.experiment('clm', mesh=MeshShape(data=1, fsdp=4))
    shapes = jax.tree.leaves(jax.eval_shape(lambda: step.init_state(experiment)))
    held = sum(math.prod(x.shape) * x.dtype.itemsize for x in shapes)
    assert memory.state_bytes(experiment, sharding_table.abstract_mesh(experiment, 4)) == held


def test_full_remat_keeps_the_input_of_each_layer_alone():
    experiment = with_model(fixtures.experiment('clm', batch_size=16), remat='full', unroll=1)
    found = estimate(experiment, 4)
    carried = 2 * 4 * 16 * 32 * 4  # layers, rows of a device, length, width, float32
    assert carried <= found.activations < 4 * carried
    plain = estimate(with_model(experiment, remat='none'), 4)
    dots = estimate(with_model(experiment, remat='dots'), 4)
    assert found.activations < dots.activations < plain.activations
    assert plain.working == 0 < found.working < plain.activations


def test_activations_and_logits_divide_over_devices_and_microbatches():
    experiment = fixtures.experiment('clm', batch_size=16)
    one, four = estimate(experiment, 1), estimate(experiment, 4)
    assert one.logits == 16 * 16 * 64 * (4 + 4) == 4 * four.logits
    assert one.activations == pytest.approx(4 * four.activations, rel=1e-3)
    cut = estimate(dataclasses.replace(experiment, microbatches=4), 1)
    assert cut.logits == four.logits and cut.gradients == 2 * one.gradients


def test_each_pass_reads_weights_whole_also_where_they_are_split():
    whole = fixtures.experiment('clm', batch_size=16)
    split = dataclasses.replace(whole, mesh=MeshShape(data=1, fsdp=4))
    read = []
    for experiment in (whole, split):
        mesh = sharding_table.abstract_mesh(experiment, 4)
        found = memory.estimate(experiment, mesh)
        state = 2 * (found.parameters + found.optimizer + found.gradients)
        kept = 2 * (found.activations + found.logits)
        read.append(memory.traffic(experiment, found, mesh) - state - kept)
    assert read[0] == 2 * estimate(whole, 4).parameters
    assert read[0] <= read[1] < 1.1 * read[0]  # norms are whole everywhere


def test_the_estimate_is_near_what_xla_keeps_on_a_cpu():
    experiment = with_model(
        fixtures.experiment('clm', batch_size=64), embed=128, mlp=512, vocab=512, encoder_layers=0
    )
    state = jax.eval_shape(lambda: step.init_state(experiment))
    mesh = sharding_table.abstract_mesh(experiment, 1)
    shapes = {k: jax.ShapeDtypeStruct(*v) for k, v in experiment.streams['clm'].spec().items()}
    function = lambda s, b: step.train_step(experiment, step.model_of(experiment), s, b)[0]
    jitted = jax.jit(function, donate_argnums=0).lower(state, {'clm': shapes}).compile()
    found, real = memory.estimate(experiment, mesh), jitted.memory_analysis()
    assert 0.5 < found.peak / (real.argument_size_in_bytes + real.temp_size_in_bytes) < 2


@pytest.mark.parametrize(
    'name, chips, devices, shape',
    [
        ('v5p-128', 64, 64, '4x4x4'),
        ('v4-8', 4, 4, '2x2x1'),
        ('v5litepod-16', 16, 16, '4x4'),
        ('v5e-256', 256, 256, '16x16'),
        ('v5e:4x8', 32, 32, '4x8'),
        ('V6E-1', 1, 1, '1x1'),
        ('tpu7x-8', 4, 8, '2x2x1'),
        ('v5p-2048', 1024, 1024, '8x8x16'),
        ('gpu:h100:8', 8, 8, None),
    ],
)
def test_product_names(name, chips, devices, shape):
    found = topology.find(name)
    assert (found.chips, found.devices, found.shape) == (chips, devices, shape)


def test_memory_of_a_chip_is_shared_by_its_devices():
    assert topology.find('v5e-16').memory == 16 * 2**30
    assert topology.find('tpu7x-8').memory == 96 * 2**30
    assert topology.find('gpu:a100-40:8').memory == 40 * 10**9


def test_a_family_alone_has_the_chips_of_the_mesh():
    assert topology.find('v5p', 32).name == 'v5p-64'
    assert topology.find('gpu:b200', 16).chips == 16


def test_several_slices_have_a_name():
    found = topology.find('2xv5p-128')
    assert (found.name, found.chips, found.slices) == ('2xv5p-128', 128, 2)
    assert found.shape == topology.find('v5p-128').shape == '4x4x4'
    assert topology.find('3xv5e', 12).name == '3xv5e-4'
    with pytest.raises(ConfigError, match='must be slices of TPUs; try 2xv5p-128'):
        topology.find('2xgpu:h100:8')


def test_the_network_between_slices_is_a_term_of_its_own():
    experiment = fixtures.experiment('clm', mesh=MeshShape(replica=2), batch_size=16)
    mesh = sharding_table.abstract_mesh(experiment, 8)
    found = memory.estimate(experiment, mesh)
    assert memory.between_slices(found, mesh) == found.parameters
    target = topology.find('2xv5e-4')
    outcome = verdict.Outcome(found.peak, target.memory)
    text = '\n'.join(check.times(experiment, target, outcome, 10**9))
    assert f'between slices {found.parameters / 3.125e9 * 1e3:,.1f} ms' in text


def test_context_splits_activations_and_gathers_keys_and_values():
    experiment = fixtures.experiment('clm', mesh=MeshShape(data=1, fsdp=1))
    split = dataclasses.replace(experiment, mesh=MeshShape(data=1, context=4))
    whole, parts = estimate(experiment, 1), estimate(split, 4)
    assert parts.activations == pytest.approx(whole.activations / 4, rel=0.01)
    assert parts.parameters == whole.parameters
    mesh = sharding_table.abstract_mesh(split, 4)
    assert memory.exchanged(split, parts, mesh) > 1.5 * parts.parameters


@pytest.mark.parametrize(
    'name, message',
    [
        ('v5x-16', 'v5x-16: is unknown; nearest: v5.-16'),
        ('v5p-100', 'v5p has no slice of 100; nearest: v5p-128, v5p-64'),
        ('v5e:3x3', 'v5e has no slice of 3x3; nearest: v5e-8, v5e-16'),
        ('v5e', 'v5e has no slice of 1000 devices; nearest: v5e-256'),
        ('gpu:h10:8', "'h10' is no GPU here; nearest: h100"),
        ('gpu:h100:none', "'none' must be a number of GPUs"),
        ('', 'is unknown'),
    ],
)
def test_a_topology_that_does_not_exist_names_the_nearest(name, message):
    with pytest.raises(ConfigError, match=message):
        topology.find(name, 1000)


def test_epochs_are_told_of_each_task_of_a_mixture_or_how_to_learn_its_size():
    two = sizes.Sizes({'a': sizes.Size(10, 1000), 'b': sizes.Size(10, 4000)}, {'a': 1, 'b': 1})
    assert sizes.epochs(two, 10_000) == {'a': 2.0, 'b': 2.0}
    assert sizes.epochs(two._replace(rates={'a': 4, 'b': 1}), 8000) == {'a': 4.0, 'b': 1.0}
    experiment = fixtures.experiment('clm', batch_size=16)  # 16 rows of 16 tokens
    stream = dataclasses.replace(experiment.streams['clm'], mixture='corpus_en_pd_mix')
    of = lambda **changes: list(
        check.epochs(
            dataclasses.replace(
                experiment, streams={'clm': dataclasses.replace(stream, **changes)}, steps=6488
            )
        )
    )
    assert of() == [
        'epochs of austen: 1.00 of 835,883 tokens (clm)',
        'epochs of sotu: 1.00 of 825,126 tokens (clm)',
    ]
    assert 'epochs of sotu: 0.00' in of(rates={'austen': 1.0, 'sotu': 0.0})[1]
    assert of(mixture='mine')[0].endswith('t5x-lite data stats mine --documents 1000000000')


def test_what_stats_measured_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv('T5X_LITE_DATA_DIR', str(tmp_path))
    assert sizes.of('mine') is None
    measured = sizes.Sizes({'mine': sizes.Size(3, 12)}, {'mine': 1.0})
    sizes.remember('mine', measured)
    assert sizes.of('mine') == measured


def test_the_first_change_that_fits_is_the_cheapest_that_was_measured():
    experiment = fixtures.experiment('clm', batch_size=16)
    asked = []

    def measure(changed):
        asked.append((changed.model.remat, changed.mesh.fsdp, changed.microbatches))
        return Outcome(5 if changed.microbatches > 1 else 20, 10)

    tried = list(verdict.first_fix(experiment, 4, 10, measure))
    assert asked == [('full', 1, 1), ('full', 4, 1), ('full', 4, 2)]
    assert [t.outcome.fits for t in tried] == [False, False, True]
    assert tried[-1].change == ('model.remat=full', 'mesh.fsdp=4', 'microbatches=2')
    assert len(list(verdict.first_fix(experiment, 4, 10, lambda _: Outcome(20, 10)))) == 4


def test_dots_are_kept_where_the_estimate_has_room_for_them():
    experiment = fixtures.experiment('clm', batch_size=512)
    room = estimate(with_model(experiment, remat='dots'), 4).peak
    options = [change for change, _ in verdict.changes(experiment, 4, room)]
    assert options[:2] == [('model.remat=dots',), ('model.remat=full',)]
    options = [change for change, _ in verdict.changes(experiment, 4, room - 1)]
    assert options[0] == ('model.remat=full',)


def test_fsdp_is_no_larger_than_the_estimate_asks():
    experiment = with_model(fixtures.experiment('clm', batch_size=16), remat='full')
    room = estimate(dataclasses.replace(experiment, mesh=MeshShape(fsdp=2)), 8).peak
    changed = next(verdict.changes(experiment, 8, room))
    assert changed[0] == ('mesh.fsdp=2',)


def test_verdicts_say_by_how_much():
    gib = 2**30
    assert verdict.verdict(Outcome(10 * gib, 16 * gib)).startswith('fits: 10.0 of 16.0 GiB')
    over = verdict.verdict(Outcome(20 * gib, 16 * gib))
    assert over.startswith('does not fit') and '4.0 GiB over' in over


def test_a_check_tells_the_change_that_fits(monkeypatch):
    def measure(experiment, devices, available):
        return Outcome(available + (experiment.model.remat != 'full'), available)

    monkeypatch.setattr(verdict, 'estimated', measure)
    experiment = fixtures.experiment('mlm')
    text = '\n'.join(check.lines(experiment, where='gpu:h100:8'))
    assert 'verdict: does not fit' in text
    assert 'the first change that makes it fit: --set model.remat=full' in text
    assert 'bound by' in text and 'hours' in text


HLO = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}
%body (carry: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %g = bf16[16,4]{1,0} all-gather(%x), channel_id=1, replica_groups=[4,2]<=[8], dimensions={0}
  %h = bf16[16,4]{1,0} fusion(%g), kind=kCustom, calls=%beside
  %r = f32[8,4]{1,0} all-reduce(%y), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}
%beside (x: bf16[8,4]) -> bf16[16,4] {
  %g.2 = bf16[16,4]{1,0} all-gather(%x), channel_id=1, replica_groups=[4,2]<=[8], dimensions={0}
}
%all-reduce-scatter.1 (x: f32[8,4]) -> f32[2,4] {
  %r.2 = f32[8,4]{1,0} all-reduce(%x), replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]) {'b'}
}
%cond (carry: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n)
}
ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %w = (s32[], f32[8,4]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %s = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p), replica_groups=[2,4]<=[8]
  %d = f32[8,4]{1,0} all-gather-done(%s)
  %f = f32[2,4]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


def test_collectives_in_loops_count_as_often_as_they_run():
    found = collectives.count(HLO)
    assert found.unknown_loops == 0
    assert found.totals['all-gather'] == (7, 6 * 128 + 128, 6 * 64 + 96)
    assert found.totals['all-reduce'] == (6, 6 * 128, 6 * 192)
    assert found.totals['reduce-scatter'] == (1, 128, 96)
    assert found.sent == 6 * 64 + 96 + 6 * 192 + 96
    unknown = HLO.replace('known_trip_count', 'unknown')
    found = collectives.count(unknown)
    assert found.unknown_loops == 1 and found.totals['all-reduce'].count == 1
    limited = unknown.replace('%less = pred', '%n = s32[]{:T(128)} constant(12)\n  %less = pred')
    assert collectives.count(limited).totals['all-reduce'].count == 12


def test_check_prints_sizes_without_tensorflow_in_under_ten_seconds():
    code = (
        'import sys; sys.modules.update(tensorflow=None, seqio=None); '
        f'from t5x_lite import main; main.main(["check", {CLM!r}, "--devices", "4"])'
    )
    spent = lambda: resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    before = spent()
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert spent() - before < 10  # of a CPU: machines that run tests are busy
    for words in ('parameters: 5,2', 'tokens per step', 'FLOPs', 'learning rate: 0 at step 0'):
        assert words in done.stdout
    assert '4 devices: data=4' in done.stdout and 'checkpoint: ' in done.stdout


@pytest.mark.parametrize(
    'options, message',
    [
        (['--topology', 'v5p-127'], 'nearest: v5p-128'),
        (['--topology', 'gpu:h100:8', '--devices', '4'], '--devices=4: gpu:h100:8 has 8'),
        (['--devices', '7'], 'must divide over data'),
        (['--topology', 'gpu:h100:8', '--set', 'mesh.fsdp=3'], 'there are 8'),
    ],
)
def test_bad_input_is_one_message_and_status_2(options, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(['check', CLM, *options])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and message in error


def test_running_out_of_memory_is_an_outcome_and_other_refusals_are_messages():
    slice_of_four = topology.find('v5e-4')
    message = (
        'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO '
        'temporaries (68.48G) exceeds available HBM (15.75G)'
    )
    outcome = tpu_compile.refusal(message, slice_of_four)
    assert not outcome.fits and outcome.refused
    assert (outcome.needed, outcome.available) == (int(68.48 * 2**30), int(15.75 * 2**30))
    unread = tpu_compile.refusal('RESOURCE_EXHAUSTED: no figures', slice_of_four)
    assert not unread.fits and unread.available == 16 * 2**30
    with pytest.raises(ConfigError, match='v5e-4: the compiler refused the step: INVALID'):
        tpu_compile.refusal('INVALID_ARGUMENT: a reason\nmore', slice_of_four)


def test_without_libtpu_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main.main(['check', CLM, '--topology', 'v5e-4'])
    assert ended.value.code == 2
    assert "pip install 't5x_lite[tpu]'" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="libtpu, the TPU's compiler, is not installed (extra `tpu`)",
)
def test_a_tiny_step_is_compiled_for_a_slice_that_is_not_here():
    code = (
        'import sys; sys.modules.update(tensorflow=None, seqio=None); from t5x_lite import main; '
        f'main.main(["check", {CLM!r}, "--topology", "v5e-4", "--set", "mesh.fsdp=2", '
        '"--set", "model.decoder_layers=2"])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ('v5e-4: 4 chips, 2x2', 'compiled for it in', 'all-gather: ', 'verdict: fits: '):
        assert words in done.stdout
