"""Every house rule is shown an offender and must report it, and a harmless neighbour and must not.

Offenders are written to a file first, so that what is tested is what the rules read: files.
"""

from pathlib import Path

import pytest

from tests.house import rules, text_rules, tree

COMPRESSION = "compression/bitweir_compression/x.py"
TRAINING = "compression/bitweir_compression/models/x.py"
METERING = "metering/bitweir_metering/x.py"
VERIFICATION = "verification/bitweir_verification/x.py"
SERVICES = "services/bitweir_services/x.py"
TESTS = "tests/unit/test_x.py"
LONG_FUNCTION = "def f():\n" + "    pass\n" * rules.FUNCTION_LINES_MAX

# (rule, path, source that must be reported)
CODE_OFFENDERS = [
    ("asserts", COMPRESSION, "assert True"),
    ("banned_calls", TESTS, "eval('1')"),
    ("banned_calls", TESTS, "exec('1')"),
    ("banned_calls", TESTS, "import os\nos.system('ls')"),
    ("banned_calls", TESTS, "from os import system as run\nrun('ls')"),
    ("banned_calls", TESTS, "import torch\ntorch.load('x')"),
    ("banned_calls", TESTS, "import torch\ntorch.load('x', weights_only=False)"),
    ("banned_calls", TESTS, "import torch\ntorch.save({}, 'x')"),
    ("banned_calls", TESTS, "import numpy as np\nnp.load('x', allow_pickle=True)"),
    ("banned_calls", TESTS, "import numpy as np\nnp.load('x', allow_pickle=flag)"),
    ("banned_imports", TESTS, "import pickle"),
    ("banned_imports", TESTS, "import cPickle"),
    ("banned_imports", TESTS, "from dill import loads"),
    ("banned_imports", TESTS, "import shelve"),
    ("banned_imports", TESTS, "def f():\n    import marshal"),
    ("banned_imports", TESTS, "import importlib\nimportlib.import_module('pickle')"),
    ("banned_imports", TESTS, "__import__('pickle')"),
    ("broad_excepts", METERING, "try:\n    pass\nexcept Exception:\n    pass"),
    ("broad_excepts", METERING, "try:\n    pass\nexcept:\n    pass"),
    ("broad_excepts", VERIFICATION, "try:\n    pass\nexcept (OSError, BaseException) as error:\n    pass"),
    ("broad_excepts", VERIFICATION, "from contextlib import suppress\nwith suppress(Exception):\n    pass"),
    ("clock", COMPRESSION, "import time\ntime.time()"),
    ("clock", METERING, "from time import time as now\nnow()"),
    ("clock", METERING, "from datetime import datetime, UTC\ndatetime.now(UTC)"),
    ("environment", SERVICES, "import os\nos.environ['A'] = 'b'"),
    ("environment", TESTS, "import os\nif True:\n    os.environ.setdefault('A', 'b')"),
    ("environment", SERVICES, "from os import environ\ndel environ['A']"),
    ("file_length", TESTS, "pass\n" * (rules.FILE_LINES_MAX + 1)),
    ("function_length", TESTS, LONG_FUNCTION),
    ("function_length", TESTS, LONG_FUNCTION.replace("def", "async def")),
    ("global_randomness", TESTS, "import random\nrandom.seed(1)"),
    ("global_randomness", TESTS, "import random\nrandom.choice([1])"),
    ("global_randomness", SERVICES, "import numpy as np\nnp.random.seed(1)"),
    ("global_randomness", SERVICES, "import torch\ntorch.manual_seed(1)"),
    ("global_randomness", SERVICES, "import torch\ntorch.multinomial(p, 1)"),
    ("global_randomness", TESTS, "import torch\ntorch.randn(2, generator=None)"),
    ("import_path", TESTS, "import sys\nsys.path.insert(0, 'x')"),
    ("import_path", TESTS, "import sys\nsys.path += ['x']"),
    ("import_path", TESTS, "import sys\nsys.path[0] = 'x'"),
    ("prints", SERVICES, "print('x')"),
    ("pure_imports", COMPRESSION, "import requests"),
    ("pure_imports", COMPRESSION, "import socket"),
    ("pure_imports", COMPRESSION, "from concurrent import futures"),
    ("pure_imports", METERING, "from urllib import request"),
    ("pure_imports", METERING, "import httpx"),
    ("relative_imports", TESTS, "from . import x"),
    ("relative_imports", SERVICES, "from ..x import y"),
    ("syntax", SERVICES, "def f[T](x: T) -> T:\n    return x"),
    ("syntax", TESTS, "def f(:"),
    ("torch_generators", COMPRESSION, "import torch\ntorch.Generator()"),
    ("torch_generators", SERVICES, "from torch import Generator\nGenerator('cpu')"),
    ("vague_errors", SERVICES, "raise ValueError('x')"),
    ("vague_errors", COMPRESSION, "raise Exception"),
]

# (rule, path, source that must not be reported)
CODE_NEIGHBOURS = [
    ("asserts", TESTS, "assert True"),
    ("banned_calls", TESTS, "model.eval()\nre.compile('eval(')"),
    ("banned_calls", TESTS, "import torch\ntorch.load('x', weights_only=True)"),
    ("banned_calls", TESTS, "import numpy as np\nnp.load('x', allow_pickle=False)\nnp.load('x')"),
    ("banned_imports", TESTS, "'import pickle'  # import pickle"),
    ("broad_excepts", METERING, "try:\n    pass\nexcept (OSError, KeyError):\n    pass"),
    ("broad_excepts", SERVICES, "try:\n    pass\nexcept Exception:\n    pass"),
    ("clock", SERVICES, "import time\ntime.time()"),
    ("clock", METERING, "import time\ndef f(clock=time.monotonic): clock()"),
    ("environment", TESTS, "import os\ndef f():\n    os.environ['A'] = 'b'\nvalue = os.environ['A']"),
    ("file_length", TESTS, "pass\n" * rules.FILE_LINES_MAX),
    ("function_length", TESTS, LONG_FUNCTION.removesuffix("    pass\n")),
    ("global_randomness", TRAINING, "import torch\ntorch.manual_seed(1)"),
    ("global_randomness", TESTS, "import numpy as np\nrandom = np.random.default_rng(1)\nrandom.choice([1])"),
    ("global_randomness", TESTS, "import torch\ntorch.randn(2, generator=torch.Generator().manual_seed(1))"),
    ("import_path", TESTS, "import sys\nlist(sys.path)"),
    ("prints", TESTS, "print('x')"),
    ("pure_imports", SERVICES, "import socket, httpx"),
    ("pure_imports", METERING, "import socket"),
    ("relative_imports", TESTS, "from bitweir_compression import x"),
    ("syntax", TESTS, "match x:\n    case 1: pass"),
    ("torch_generators", TRAINING, "import torch\ntorch.Generator()"),
    ("vague_errors", SERVICES, "@field_validator('x')\ndef f(cls, v):\n    raise ValueError('x')"),
]

CODE_RULES = {rule.__name__.removeprefix("check_"): rule for rule in rules.CODE_RULES}
TEXT_RULES = {rule.__name__.removeprefix("check_"): rule for rule in text_rules.TEXT_RULES}

# Put together from parts: this file is itself under the rules.
TEXT_OFFENDERS = [
    ("control_characters", "docs/x.md", "a\x1b[0m\n"),
    ("control_characters", "docs/x.md", "a\r\n"),
    ("control_characters", "docs/x.md", "a\u202eb\n"),
    ("control_characters", "docs/x.md", "\ufffd\n"),
    ("final_newline", "docs/x.md", "a"),
    ("final_newline", "docs/x.md", "a\n\n"),
    ("patterns", TESTS, "cd /" + "work/x\n"),
    ("patterns", TESTS, "'/" + "root/x'\n"),
    ("patterns", "k8s/x.yaml", "path: /" + "home/x\n"),
    ("patterns", "Makefile", "pip install --" + "index-url x\n"),
    ("patterns", "docs/x.md", "https://py" + "pi.org/simple\n"),
    ("patterns", "docs/x.md", "(FIX" + "ME later)\n"),
    ("patterns", "docs/x.md", "# TO" + "DO: later\n"),
    ("patterns", "docs/x.md", "# X" + "XX\n"),
    ("patterns", "docs/x.md", "<" * 7 + " HEAD\n"),
    ("patterns", "docs/x.md", "=" * 7 + "\n"),
    ("patterns", "docs/x.md", "a \n"),
    ("tabs", COMPRESSION, "\tx\n"),
    ("temporary_paths", COMPRESSION, "'/tm" + "p/x'\n"),
]
TEXT_NEIGHBOURS = [
    ("control_characters", "docs/x.md", "ä ├── ≥\n"),
    ("final_newline", "docs/x.md", ""),
    ("final_newline", "docs/x.md", "a\n"),
    ("patterns", "docs/x.md", "teamwork/root/home/x and https://example.org/home/x\n"),
    ("patterns", "docs/x.md", "a title\n" + "=" * 8 + "\n"),
    ("patterns", "docs/x.md", "mktemp " + "X" * 6 + "\n"),
    ("patterns", COMPRESSION, "skip = ('TO" + "DO',)\n"),
    ("tabs", "Makefile", "\tx\n"),
    ("temporary_paths", TESTS, "'/tm" + "p/x'\n"),
]


def planted(folder: Path, path: str, source: str) -> str:
    """Write `source` where the rule expects it and return what a rule would read."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.encode())
    return target.read_bytes().decode()


@pytest.mark.parametrize(("name", "path", "source"), CODE_OFFENDERS)
def test_code_rule_reports(name: str, path: str, source: str, tmp_path: Path) -> None:
    found = CODE_RULES[name](path, planted(tmp_path, path, source))
    assert len(found) == 1
    location, message = found[0].split(": ", 1)
    assert location.startswith(f"{path}:")
    assert 1 <= int(location.rpartition(":")[2]) <= source.count("\n") + 1
    assert message.count(": ") >= 1
    assert "; " in message, "a violation says what to use instead"


@pytest.mark.parametrize(("name", "path", "source"), CODE_NEIGHBOURS)
def test_code_rule_lets_pass(name: str, path: str, source: str, tmp_path: Path) -> None:
    assert CODE_RULES[name](path, planted(tmp_path, path, source)) == []


@pytest.mark.parametrize(("name", "path", "source"), TEXT_OFFENDERS)
def test_text_rule_reports(name: str, path: str, source: str, tmp_path: Path) -> None:
    found = TEXT_RULES[name](path, planted(tmp_path, path, source))
    assert len(found) == 1
    assert found[0].startswith(f"{path}:")
    assert "; " in found[0]


@pytest.mark.parametrize(("name", "path", "source"), TEXT_NEIGHBOURS)
def test_text_rule_lets_pass(name: str, path: str, source: str, tmp_path: Path) -> None:
    assert TEXT_RULES[name](path, planted(tmp_path, path, source)) == []


def test_every_rule_has_an_offender_and_a_neighbour() -> None:
    assert {name for name, _, _ in CODE_OFFENDERS} == set(CODE_RULES)
    assert {name for name, _, _ in CODE_NEIGHBOURS} == set(CODE_RULES)
    assert {name for name, _, _ in TEXT_OFFENDERS} == set(TEXT_RULES)
    assert {name for name, _, _ in TEXT_NEIGHBOURS} == set(TEXT_RULES)


def test_every_rule_of_the_files_is_registered() -> None:
    others = {"check_mentions", "check_names", "check_layout", "check_sizes"}
    written = {name for module in (rules, text_rules) for name in vars(module) if name.startswith("check_")}
    assert written == {f"check_{name}" for name in [*CODE_RULES, *TEXT_RULES]} | others


@pytest.mark.parametrize("name", ["utils.py", "common/x.py", "helpers/__init__.py", "misc.md", "Utils.PY"])
def test_names_reports(name: str) -> None:
    assert len(text_rules.check_names([f"services/bitweir_services/{name}"])) == 1
    assert text_rules.check_names(["services/bitweir_services/utility_curve.py"]) == []


def test_layout_reports() -> None:
    good = {f"{path}{name}" for path in tree.PACKAGE_PATHS for name in ("__init__.py", "py.typed")}
    assert text_rules.check_layout(good) == []
    for path in good:
        assert len(text_rules.check_layout(good - {path})) == 1
    for folder in tree.PACKAGES.values():
        assert len(text_rules.check_layout(good | {f"{folder}/__init__.py"})) == 1


def test_sizes_reports() -> None:
    limit_bytes = text_rules.BLOB_BYTES_MAX
    assert text_rules.check_sizes({"a": limit_bytes}, {}) == []
    assert len(text_rules.check_sizes({"a": limit_bytes + 1}, {})) == 1
    assert text_rules.check_sizes({"a": limit_bytes + 1}, {"a": "a reason"}) == []
    assert len(text_rules.check_sizes({"a": limit_bytes}, {"a": "a reason"})) == 1
    assert len(text_rules.check_sizes({}, {"a": "a reason"})) == 1


def test_mentions_reports() -> None:
    source = "see docs/a.md, docs/b.md and docs/c/<name>.md, metering/.../gate.py, benchmarks/results/NAME.json.\n"
    assert text_rules.check_mentions("x.py", source, {"docs/a.md", "docs/b.md"}) == []
    assert len(text_rules.check_mentions("x.py", source, {"docs/a.md"})) == 1
