"""The operations the exact model may use, enforced: a dispatch mode that looks at every call torch makes.

Rules:
1. An operation that is not named here raises. There is no list of forbidden ones: rsqrt, mean, softmax, float division
   and whatever a later torch adds are outside because they are not inside.
2. Arithmetic is on integers of one dtype, and nothing wraps: each result is compared with what float64 makes of it and
   with what its dtype holds. Shifts are by 0 to 62.
3. A matrix product's operands are integers; K * max|a| * max|b| is at most 2**53 in float64, and below 2**24 with
   operands of at most 127 in float32.
4. A change of dtype keeps every value, and only a conversion changes one: an operation that moves values returns its
   operands' dtype, adds nothing up, and takes a scalar only if the result's dtype holds it.
5. Nothing is written to `out=`.

What leaves torch is invisible to a dispatch mode: after `.item()`, `.tolist()` or `.numpy()` nothing here is checked.
Tests and `certify` run under this mode; serving does not, for it costs more than the model.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bitweir_compression.exact.errors import ForbiddenOpError
from bitweir_compression.exact.schema import CARRIER_BITS

# Moves values without computing with them; any dtype, which must not change.
MOVES: Final = frozenset(
    {
        "_local_scalar_dense",
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "arange",
        "as_strided",
        "cat",
        "clone",
        "detach",
        "detach_",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "fill_",
        "full",
        "full_like",
        "index",
        "index_put_",
        "index_select",
        "lift_fresh",
        "new_empty",
        "new_zeros",
        "ones_like",
        "permute",
        "repeat",
        "reshape",
        "scalar_tensor",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "stack",
        "t",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
        "where",
        "zero_",
        "zeros",
        "zeros_like",
    }
)
# Of MOVES: take a tensor's shape, not its values.
_CREATIONS: Final = frozenset({"empty_like", "full_like", "new_empty", "new_zeros", "ones_like", "zeros_like"})
# Of the arguments of MOVES: say which values move, and do not move themselves.
_SELECTORS: Final = frozenset({"condition", "index", "indices"})
# Integers or booleans in, integers or booleans out.
INTEGER_OPS: Final = frozenset(
    {
        "abs",
        "add",
        "all",
        "amax",
        "any",
        "bitwise_and",
        "bitwise_left_shift",
        "bitwise_right_shift",
        "bucketize",
        "clamp",
        "eq",
        "equal",
        "floor_divide",
        "ge",
        "gt",
        "le",
        "lt",
        "max",
        "mul",
        "ne",
        "neg",
        "nonzero",
        "rsub",
        "sub",
        "sum",
    }
)
PRODUCTS: Final = frozenset({"bmm", "matmul", "mm"})
CONVERSIONS: Final = frozenset({"_to_copy", "copy_"})
# May exceed their dtype if a bound is wrong; the value says how to compute the same in float64.
_WRAPPING: Final[Mapping[str, Callable[..., torch.Tensor]]] = {
    "abs": torch.abs,
    "add": torch.add,
    "bitwise_left_shift": torch.ldexp,
    "floor_divide": torch.floor_divide,
    "mul": torch.mul,
    "neg": torch.neg,
    "rsub": torch.rsub,
    "sub": torch.sub,
    "sum": torch.sum,
}
_FLOAT32_LIMIT: Final = 127
_FLOAT32_SUM_LIMIT: Final = 1 << 24
_SHIFT_MAX: Final = 62
# For 64 bits, well within what they hold: float64 is off by far less. It holds the limits of narrower dtypes exactly.
_NO_WRAP: Final = 2.0**62.5
_WIDE_BITS: Final = 64


class AllowList(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`with AllowList() as mode:` raises ForbiddenOpError at the first call that is not exact.

    Attributes:
        counts: operation -> how often it was called.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Check one call before and after it is made."""
        name = str(func.overloadpacket.__name__)
        # An operation in place is the operation.
        name = name.removesuffix("_") if name.removesuffix("_") in INTEGER_OPS else name
        options = kwargs or {}
        if not _is_listed(func, name):
            # A composite operation is what it is made of; each part comes back here.
            with self:
                parts = func.decompose(*args, **options)
            if parts is not NotImplemented:
                return parts
            raise _forbidden(name, "it is not on the allow-list")
        self.counts[name] = self.counts.get(name, 0) + 1
        bound = _bound(func, args, options)
        _check_call(func, name, bound)
        tensors = _tensors(bound.values())
        if name in PRODUCTS:
            _check_product(name, *tensors)
        # Before the call, which may change its operands in place.
        estimate = _estimate(name, args, options) if name in _WRAPPING else None
        result = func(*args, **options)
        _check_result(func, name, bound, result)
        if estimate is not None:
            _check_wrap(name, estimate, result.dtype)
        if name in CONVERSIONS and not _keeps_values(tensors[-1], result):
            raise _forbidden(name, f"{tensors[-1].dtype} to {result.dtype} changes values")
        return result


def _is_listed(func: Any, name: str) -> bool:
    return str(func.namespace) == "aten" and name in MOVES | INTEGER_OPS | PRODUCTS | CONVERSIONS


def _flat(items: Iterable[Any]) -> list[Any]:
    found = []
    for item in items:
        if isinstance(item, list | tuple):
            found += _flat(item)
        else:
            found.append(item)
    return found


def _tensors(items: Iterable[Any]) -> list[torch.Tensor]:
    return [item for item in _flat(items) if isinstance(item, torch.Tensor)]


def _bound(func: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """Name the arguments as the schema does; those left out are left out."""
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **options}


def _scalars(func: Any, bound: Mapping[str, Any]) -> list[Any]:
    """Return the arguments that are numbers to compute with or to store, not sizes or dimensions."""
    names = [argument.name for argument in func._schema.arguments if "number" in str(argument.type).lower()]
    return [bound[name] for name in names if isinstance(bound.get(name), int | float | complex)]


def _is_float(item: object) -> bool:
    if isinstance(item, torch.Tensor):
        return item.is_floating_point() or item.is_complex()
    return isinstance(item, float | complex)


def _check_call(func: Any, name: str, bound: Mapping[str, Any]) -> None:
    """Check what can be checked before the call."""
    for argument in func._schema.arguments:
        if argument.kwarg_only and argument.alias_info is not None and argument.alias_info.is_write:
            raise _forbidden(name, "it writes to out=")
    if bound.get("alpha", 1) != 1:
        raise _forbidden(name, "it has a factor, which some kernels fuse")
    if bound.get("accumulate", False):
        raise _forbidden(name, "it adds up what it moves")
    if name in INTEGER_OPS:
        if any(_is_float(item) for item in _flat(bound.values())):
            raise _forbidden(name, "it computes with floats")
        dtypes = {tensor.dtype for tensor in _tensors(bound.values())} - {torch.bool}
        if len(dtypes) > 1:
            raise _forbidden(name, f"it mixes {sorted(map(str, dtypes))}")
        if dtypes and not all(_holds(min(dtypes, key=str), value) for value in _scalars(func, bound)):
            raise _forbidden(name, f"{min(dtypes, key=str)} does not hold a number it is given")
    if name.endswith("_shift"):
        count = torch.as_tensor(bound["other"])
        if count.numel() and not 0 <= int(count.min()) <= int(count.max()) <= _SHIFT_MAX:
            raise _forbidden(name, f"it shifts by less than 0 or more than {_SHIFT_MAX}")


def _check_result(func: Any, name: str, bound: Mapping[str, Any], result: Any) -> None:
    """Check the dtypes of what was returned against those of what went in."""
    results = _tensors([result])
    if name in INTEGER_OPS and any(_is_float(item) for item in results):
        raise _forbidden(name, "it returns floats")
    if name not in MOVES:
        return
    scalars = _scalars(func, bound)
    if name == "arange" and any(_is_float(item) for item in (*scalars, *results)):
        raise _forbidden(name, "it counts in floats")
    moved = [] if name in _CREATIONS else _tensors(value for key, value in bound.items() if key not in _SELECTORS)
    for item in results:
        if any(source.dtype != item.dtype for source in moved):
            raise _forbidden(name, f"it moves {sorted({str(source.dtype) for source in moved})} to {item.dtype}")
        if not all(_holds(item.dtype, value) for value in scalars):
            raise _forbidden(name, f"{item.dtype} does not hold a number it is given")


def _holds(dtype: torch.dtype, value: complex) -> bool:
    """Whether the dtype holds the number as it is; an integer dtype holds no float, not even a whole one."""
    if isinstance(value, complex) or dtype.is_complex:
        return False
    if dtype == torch.bool:
        return isinstance(value, int) and value in {0, 1}
    if dtype.is_floating_point:
        return bool(torch.tensor(float(value), dtype=torch.float64).to(dtype).item() == value)
    return isinstance(value, int) and torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max


def _keeps_values(source: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether a conversion can be undone and no sign changed, as that of -1 in unsigned bytes would."""
    if source.is_complex() or result.is_complex():
        return False
    source = source.expand_as(result).to(result.device)
    return torch.equal(result.to(source.dtype), source) and torch.equal(result < 0, source < 0)


def _check_product(name: str, left: torch.Tensor, right: torch.Tensor) -> None:
    if left.dtype not in {torch.float32, torch.float64}:
        raise _forbidden(name, f"its carrier is {left.dtype}")
    if not left.numel() or not right.numel():
        return
    largest = []
    for operand in (left, right):
        if not torch.equal(operand.to(torch.int64).to(operand.dtype), operand):
            raise _forbidden(name, "an operand is not an integer")
        largest.append(int(operand.abs().max()))
    sum_max = left.shape[-1] * largest[0] * largest[1]
    if left.dtype == torch.float32 and (max(largest) > _FLOAT32_LIMIT or sum_max >= _FLOAT32_SUM_LIMIT):
        raise _forbidden(name, f"float32 with operands up to {max(largest)} and sums up to {sum_max}")
    if sum_max > 1 << CARRIER_BITS:
        raise _forbidden(name, f"sums up to {sum_max} exceed 2**{CARRIER_BITS}")


def _estimate(name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> torch.Tensor:
    """Compute the same in float64."""
    floats = [item.to(torch.float64) if isinstance(item, torch.Tensor) else item for item in args]
    plain = {
        key: value.to(torch.float64) if isinstance(value, torch.Tensor) else value
        for key, value in options.items()
        if key != "dtype"
    }
    if name == "bitwise_left_shift":
        floats = [torch.as_tensor(item, device=_tensors(args)[0].device) for item in floats]
    return _WRAPPING[name](*floats, **plain)


def _check_wrap(name: str, estimate: torch.Tensor, dtype: torch.dtype) -> None:
    if not estimate.numel():
        return
    if dtype == torch.bool:
        low, high = 0.0, 1.0
    elif torch.iinfo(dtype).bits >= _WIDE_BITS:
        low, high = max(-_NO_WRAP, float(torch.iinfo(dtype).min)), _NO_WRAP
    else:
        low, high = float(torch.iinfo(dtype).min), float(torch.iinfo(dtype).max)
    if not low <= float(estimate.min()) <= float(estimate.max()) <= high:
        raise _forbidden(name, f"its result does not fit {dtype}")


def _forbidden(name: str, why: str) -> ForbiddenOpError:
    return ForbiddenOpError(f"{name}: {why}", remedy="use arithmetic.py, and see its rule 3 for matrix products")
