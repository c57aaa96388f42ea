"""README's tree repeats the first line of every module; documents and code name nothing absent."""
# SPDX-License-Identifier: Apache-2.0

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = sorted(p for p in ROOT.glob('t5x_lite/**/*.py') if p.name not in ('__init__.py',))


def test_the_tree_in_readme_has_every_module_with_its_first_line():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    for path in MODULES:
        first = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))).splitlines()[0]
        line = rf'^ *{re.escape(path.name)} +{re.escape(first)}$'
        assert re.search(line, readme, re.MULTILINE), f'{path.relative_to(ROOT)}: {first}'


def test_every_module_has_its_licence_line_and_a_bounded_size():
    for path in [*MODULES, *ROOT.glob('benchmarks/*.py'), *ROOT.glob('tests/**/*.py')]:
        lines = path.read_text(encoding='utf-8').splitlines()
        assert '# SPDX-License-Identifier: Apache-2.0' in lines, path
        if 'tests' not in path.parts:
            assert len(lines) <= 330, f'{path}: {len(lines)} lines'


def test_files_that_documents_name_exist():
    for document in (ROOT / 'README.md', ROOT / 'docs/architecture.md'):
        text = document.read_text(encoding='utf-8')
        for name in re.findall(
            r'\b(?:t5x_lite|configs|experiments|docs|benchmarks)/[\w./]+\w', text
        ):
            assert (ROOT / name).exists(), f'{document.name}: {name}'


def test_the_experiment_in_readme_can_be_built():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    block = next(b for b in re.findall(r'```python\n(.*?)```', text, re.S) if 'experiment =' in b)
    names = {}
    exec(block, names)
    assert names['experiment'].steps == 2_000
