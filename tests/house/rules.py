"""House rules about code, each a pure function `check_x(path, source) -> violations`.

1. A violation is one line: `path:line: rule: what was found; what to use instead`.
2. A rule reads the syntax tree, never the text, so a string or comment that quotes an offence is not one.
3. Names are resolved through the file's own imports: `from os import system as run` does not hide `os.system`.
4. Every rule of `CODE_RULES` has an offender in tests/house/test_rules_can_fail.py; that file changes with this one.
"""

import ast
import builtins
import functools
from collections.abc import Callable, Iterator

from tests.house.tree import PACKAGE_PATHS

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
# The lower end of `requires-python` in pyproject.toml.
OLDEST_PYTHON = (3, 11)

Rule = Callable[[str, str], list[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION_NODES = (ast.FunctionDef, ast.AsyncFunctionDef)

COMPRESSION, METERING, VERIFICATION = PACKAGE_PATHS[:3]
PURE_PATHS = (COMPRESSION, METERING)
EVIDENCE_PATHS = (METERING, VERIFICATION)
# The only place where torch's generators, global or explicit, may run: training. Never noise, never an engine.
TRAINING_PATHS = (f"{COMPRESSION}models/",)

PICKLES = "a pickle runs code when read: safetensors for tensors, JSON for records"
BANNED_IMPORTS = dict.fromkeys(("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"), PICKLES)
BANNED_IMPORTS["marshal"] = "its format changes with the interpreter: JSON"
BANNED_CALLS = {
    "eval": "a parser, or ast.literal_eval",
    "exec": "a function",
    "os.popen": "subprocess.run with a list of arguments",
    "os.system": "subprocess.run with a list of arguments",
    "pandas.read_pickle": PICKLES,
    "torch.save": PICKLES,
}
PATH_CALLS = frozenset({"sys.path.append", "sys.path.extend", "sys.path.insert", "site.addsitedir"})
GLOBAL_SEEDS = frozenset(
    {
        "numpy.random.seed",
        "random.seed",
        "torch.cuda.manual_seed",
        "torch.cuda.manual_seed_all",
        "torch.manual_seed",
        "torch.random.manual_seed",
        "torch.seed",
        "transformers.set_seed",
    }
)
# What may be called in `random` and `numpy.random`: explicit generators. The rest draws from a hidden global one.
EXPLICIT_GENERATORS = frozenset(
    {
        "Generator",
        "MT19937",
        "PCG64",
        "PCG64DXSM",
        "Philox",
        "Random",
        "RandomState",
        "SFC64",
        "SeedSequence",
        "SystemRandom",
        "default_rng",
    }
)
# These draw from torch's global generator unless they are given one.
TORCH_DRAWS = frozenset(
    f"torch.{name}" for name in ("bernoulli", "multinomial", "normal", "rand", "randint", "randn", "randperm")
)
CLOCK_CALLS = frozenset(
    {
        "datetime.date.today",
        "datetime.datetime.now",
        "datetime.datetime.today",
        "datetime.datetime.utcnow",
        "time.monotonic",
        "time.monotonic_ns",
        "time.perf_counter",
        "time.perf_counter_ns",
        "time.process_time",
        "time.sleep",
        "time.time",
        "time.time_ns",
    }
)
NETWORK_IMPORTS = frozenset(
    {
        "aiohttp",
        "http",
        "httpx",
        "httpx2",
        "requests",
        "urllib",
        "urllib3",
        "websockets",
    }
)
# Sockets and threads have a home in the meter's process (metering/.../gate.py); in compression they have none.
SHELL_IMPORTS = frozenset(
    {
        "asyncio",
        "concurrent",
        "multiprocessing",
        "selectors",
        "socket",
        "socketserver",
        "threading",
    }
)
BROAD = frozenset({"BaseException", "Exception"})
# Built-in errors that say neither whose fault it is nor what to do next.
VAGUE_ERRORS = frozenset({"AssertionError", "BaseException", "Exception", "RuntimeError", "ValueError"})


@functools.cache
def tree_of(source: str) -> ast.Module:
    """Return the syntax tree of one file; an empty one if it has none, which `check_syntax` reports."""
    try:
        return ast.parse(source, feature_version=OLDEST_PYTHON)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


@functools.cache
def imported_names(source: str) -> dict[str, str]:
    """Return local name -> full dotted name, for everything the file imports anywhere."""
    names: dict[str, str] = {}
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name.partition(".")[0]
                names[alias.asname or head] = alias.name if alias.asname else head
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def full_name(node: ast.AST, source: str) -> str:
    """Return the dotted name an expression refers to, resolved through the imports; empty for anything local."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    head = imported_names(source).get(node.id, node.id if hasattr(builtins, node.id) else "")
    return ".".join([head, *reversed(parts)]) if head else ""


def calls(source: str) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call with the full name of what is called."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Call):
            yield node, full_name(node.func, source)


def modules_imported(source: str) -> Iterator[tuple[ast.AST, str]]:
    """Yield every absolute import with its module, `importlib.import_module("x")` and `__import__("x")` included."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node, node.module
    for call, name in calls(source):
        if name in {"importlib.import_module", "__import__"} and call.args and isinstance(call.args[0], ast.Constant):
            yield call, str(call.args[0].value)


def functions(source: str) -> Iterator[Function]:
    """Yield every function and method, nested ones included."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, FUNCTION_NODES):
            yield node


def violation(path: str, node: ast.AST, rule: str, found: str, instead: str) -> str:
    """Return one violation in the one format there is."""
    return f"{path}:{getattr(node, 'lineno', 1)}: {rule}: {found}; {instead}"


def keyword(call: ast.Call, name: str) -> object:
    """Return the literal value of a keyword argument; None if absent, the node itself if it is not a literal."""
    for argument in call.keywords:
        if argument.arg == name:
            return argument.value.value if isinstance(argument.value, ast.Constant) else argument.value
    return None


def check_banned_imports(path: str, source: str) -> list[str]:
    """No pickle and none of its relatives, anywhere."""
    return [
        violation(path, node, "banned import", module, BANNED_IMPORTS[module.partition(".")[0]])
        for node, module in modules_imported(source)
        if module.partition(".")[0] in BANNED_IMPORTS
    ]


def check_banned_calls(path: str, source: str) -> list[str]:
    """No call that runs text, a shell or a pickle, anywhere."""
    found = []
    for call, name in calls(source):
        if name in BANNED_CALLS:
            found.append(violation(path, call, "banned call", f"{name}()", f"use {BANNED_CALLS[name]}"))
        elif name == "torch.load" and keyword(call, "weights_only") is not True:
            found.append(violation(path, call, "banned call", "torch.load() without weights_only=True", PICKLES))
        elif name == "numpy.load" and keyword(call, "allow_pickle") not in {None, False}:
            found.append(violation(path, call, "banned call", "numpy.load(allow_pickle=...)", PICKLES))
    return found


def check_import_path(path: str, source: str) -> list[str]:
    """Nobody changes where Python looks for modules."""
    instead = "install the package (`make setup`) and import it"
    found = [
        violation(path, call, "import path", f"{name}()", instead) for call, name in calls(source) if name in PATH_CALLS
    ]
    for node in ast.walk(tree_of(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            base = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(base, ast.Attribute) and full_name(base, source) == "sys.path":
                found.append(violation(path, node, "import path", "assignment to sys.path", instead))
    return found


def check_relative_imports(path: str, source: str) -> list[str]:
    """Every import says the full name."""
    return [
        violation(path, node, "relative import", "." * node.level + (node.module or ""), "write the full module name")
        for node in ast.walk(tree_of(source))
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def check_global_randomness(path: str, source: str) -> list[str]:
    """Randomness comes from a generator that was passed in, never from a global one."""
    if path.startswith(TRAINING_PATHS):
        return []
    instead = "pass a random.Random or numpy Generator in, or derive it from a key (bitweir_compression.noise)"
    found = []
    for call, name in calls(source):
        module, _, function = name.rpartition(".")
        draws = module in {"random", "numpy.random"} and function not in EXPLICIT_GENERATORS
        draws |= name in TORCH_DRAWS and keyword(call, "generator") is None
        if name in GLOBAL_SEEDS or draws:
            found.append(violation(path, call, "global randomness", f"{name}()", instead))
    return found


def check_syntax(path: str, source: str) -> list[str]:
    """The oldest supported Python reads every file."""
    try:
        ast.parse(source, feature_version=OLDEST_PYTHON)
    except SyntaxError as error:
        version = ".".join(map(str, OLDEST_PYTHON))
        return [f"{path}:{error.lineno or 1}: syntax: {error.msg}; write what Python {version} reads"]
    return []


def check_torch_generators(path: str, source: str) -> list[str]:
    """A torch.Generator differs between devices and versions, so only training may use one."""
    if not path.startswith(PACKAGE_PATHS) or path.startswith(TRAINING_PATHS):
        return []
    instead = f"use keyed noise in exact arithmetic; torch generators are for training ({', '.join(TRAINING_PATHS)})"
    return [
        violation(path, call, "torch generator", f"{name}()", instead)
        for call, name in calls(source)
        if name in {"torch.Generator", "torch.cuda.default_generators", "torch.default_generator"}
    ]


def check_clock(path: str, source: str) -> list[str]:
    """The pure packages never read the clock; naming one as a default (`clock=time.monotonic`) is passing it in."""
    if not path.startswith(PURE_PATHS):
        return []
    return [
        violation(path, call, "clock in a pure package", f"{name}()", "take the time or a clock as an argument")
        for call, name in calls(source)
        if name in CLOCK_CALLS
    ]


def check_pure_imports(path: str, source: str) -> list[str]:
    """The pure packages know no network; compression knows no threads and no sockets either."""
    if not path.startswith(PURE_PATHS):
        return []
    banned = NETWORK_IMPORTS | (SHELL_IMPORTS if path.startswith(COMPRESSION) else frozenset())
    instead = "take bytes and return events; the socket or thread lives in bitweir_services"
    return [
        violation(path, node, "import in a pure package", module, instead)
        for node, module in modules_imported(source)
        if module.partition(".")[0] in banned
    ]


def check_asserts(path: str, source: str) -> list[str]:
    """Library code raises; `python -O` strips an assert."""
    if not path.startswith(PACKAGE_PATHS):
        return []
    return [
        violation(path, node, "assert in library code", "assert", "raise an error of the package's errors.py")
        for node in ast.walk(tree_of(source))
        if isinstance(node, ast.Assert)
    ]


def check_prints(path: str, source: str) -> list[str]:
    """Library code does not print."""
    if not path.startswith(PACKAGE_PATHS):
        return []
    return [
        violation(path, call, "print in library code", "print()", "return it, log it, or typer.echo it in a command")
        for call, name in calls(source)
        if name in {"print", "builtins.print", "pprint.pprint"}
    ]


def check_broad_excepts(path: str, source: str) -> list[str]:
    """Metering and verification fail closed: nobody swallows what they did not expect."""
    if not path.startswith(EVIDENCE_PATHS):
        return []
    instead = "name the errors you expect and let the rest open the breaker"
    found = []
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        elif isinstance(node, ast.Call) and full_name(node.func, source) == "contextlib.suppress":
            caught = node.args
        else:
            continue
        for error in caught:
            name = "everything" if error is None else full_name(error, source).removeprefix("builtins.")
            if name in BROAD | {"everything"}:
                found.append(violation(path, node, "broad except", f"catches {name}", instead))
    return found


def check_vague_errors(path: str, source: str) -> list[str]:
    """Library code raises the package's own errors; only a pydantic validator must raise ValueError."""
    if not path.startswith(PACKAGE_PATHS):
        return []
    exempt = {
        node
        for function in functions(source)
        if any("validator" in ast.unparse(decorator) for decorator in function.decorator_list)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Raise) and node.exc is not None and node not in exempt:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = full_name(error, source)
            if name in VAGUE_ERRORS:
                instead = "raise an error of the package's errors.py, with a remedy"
                found.append(violation(path, node, "vague error", f"raise {name}", instead))
    return found


def import_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when the module is imported: everything but the insides of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*FUNCTION_NODES, ast.Lambda)):
            yield child
            yield from import_time_nodes(child)


def check_environment(path: str, source: str) -> list[str]:
    """Importing a module does not change the process's environment."""
    instead = "set it in the process's entry point, or pass env= to subprocess"
    changing_calls = {f"os.environ.{name}" for name in ("clear", "pop", "popitem", "setdefault", "update")}
    found = []
    for node in import_time_nodes(tree_of(source)):
        stored = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
        if stored and full_name(node.value, source) == "os.environ":
            found.append(violation(path, node, "environment at import", "os.environ[...] changed", instead))
        elif isinstance(node, ast.Call):
            name = full_name(node.func, source)
            if name in changing_calls | {"os.putenv", "os.unsetenv"}:
                found.append(violation(path, node, "environment at import", f"{name}()", instead))
    return found


def check_file_length(path: str, source: str) -> list[str]:
    """A Python file is at most `FILE_LINES_MAX` lines."""
    count = len(source.splitlines())
    if count <= FILE_LINES_MAX:
        return []
    return [f"{path}:{count}: file length: {count} lines; split it, the hard stop is {FILE_LINES_MAX}"]


def check_function_length(path: str, source: str) -> list[str]:
    """A function is at most `FUNCTION_LINES_MAX` lines from `def` to its last line, docstring included."""
    found = []
    for function in functions(source):
        count = (function.end_lineno or function.lineno) - function.lineno + 1
        if count > FUNCTION_LINES_MAX:
            instead = f"split it, the hard stop is {FUNCTION_LINES_MAX}"
            found.append(violation(path, function, "function length", f"{function.name} has {count} lines", instead))
    return found


CODE_RULES: tuple[Rule, ...] = (
    check_asserts,
    check_banned_calls,
    check_banned_imports,
    check_broad_excepts,
    check_clock,
    check_environment,
    check_file_length,
    check_function_length,
    check_global_randomness,
    check_import_path,
    check_prints,
    check_pure_imports,
    check_relative_imports,
    check_syntax,
    check_torch_generators,
    check_vague_errors,
)
