"""A SIMD type for numba, `Lanes`: 16 float32 numbers, in one AVX-512 register or a few smaller ones.

LLVM vectorizes loops over channels automatically, but it does not know that the arrays do not overlap, and inserts a
check into every loop. Each operation here is a SIMD instruction: `load`, +, -, *, `maximum`, `select_equal`, `store`.

numba compiles a function again only if its own file has changed: after a change here, remove __pycache__.
"""

import operator

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
BYTES, HALVES, WORDS = (ir.VectorType(ir.IntType(bits), LANES) for bits in (8, 16, 32))
FLOATS = ir.VectorType(ir.FloatType(), LANES)
# Not "nnan" and "ninf": NaN and infinity must be preserved.
FLAGS = ("contract", "reassoc", "nsz", "arcp")


inlined = njit(error_model="numpy", inline="always")


class Lanes(types.Type):
    """Type of LANES float32 numbers."""

    def __init__(self):
        super().__init__("Lanes")


lanes = Lanes()


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, FLOATS)


def _words(number: int) -> ir.Constant:
    return ir.Constant(WORDS, [number] * LANES)


def _as_lanes(context, builder, kind, value):
    """Return a number or Lanes as Lanes; a number is repeated."""
    if kind == lanes:
        return value
    number = context.cast(builder, value, kind, types.float32)
    one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, _words(0))


def _operation(build):
    """Return a function that makes an intrinsic of a signature, with the code from build(builder, *values)."""

    def typed(signature):
        def generate(context, builder, signature, args):
            values = zip(signature.args, args, strict=True)
            return build(builder, *(_as_lanes(context, builder, kind, value) for kind, value in values))

        return signature, generate

    return typed


def _arithmetic(symbol, name):
    typed = _operation(lambda builder, x, y: getattr(builder, name)(x, y, flags=FLAGS))

    @intrinsic
    def operation(context, x, y):
        return typed(lanes(x, y))

    @overload(symbol)
    def chosen(x, y):
        return (lambda x, y: operation(x, y)) if lanes in (x, y) else None


for _symbol, _name in ((operator.add, "fadd"), (operator.iadd, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _arithmetic(_symbol, _name)


@intrinsic
def maximum(context, x, y):
    """Return the element-wise maximum; x where x is NaN."""
    return _operation(lambda builder, x, y: builder.select(builder.fcmp_ordered("<", x, y), y, x))(lanes(x, y))


@intrinsic
def select_equal(context, x, y, yes, no):
    """Return `yes` where x equals y, and `no` elsewhere, element by element."""
    return _operation(lambda builder, x, y, yes, no: builder.select(builder.fcmp_ordered("==", x, y), yes, no))(
        lanes(x, y, yes, no)
    )


def _address(context, builder, kind, array, indices):
    """Return the address of array[indices]."""
    return cgutils.get_item_pointer(context, builder, kind, context.make_array(kind)(context, builder, array), indices)


def _read(builder, address, size):
    """Return Lanes read from memory; element size in bytes: 4 is float32, 2 the bits of bfloat16, 1 uint8."""
    vector = {1: BYTES, 2: HALVES, 4: FLOATS}[size]
    value = builder.load(builder.bitcast(address, vector.as_pointer()), align=size)
    if size == 1:
        return builder.uitofp(value, FLOATS)
    if size == 2:
        return builder.bitcast(builder.shl(builder.zext(value, WORDS), _words(16)), FLOATS)
    return value


def _write(builder, value, address, size):
    """Write Lanes to memory, rounded to the element size in bytes: see `_read`."""
    if size == 1:
        value = builder.fptoui(value, BYTES)
    elif size == 2:
        bits = builder.add(builder.bitcast(value, WORDS), _words(0x8000))
        value = builder.trunc(builder.lshr(bits, _words(16)), HALVES)
    builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=size)


def _along(builder, index, axis, steps):
    """Return the indices at 0, 1, … positions after an index along an axis."""
    index = cgutils.unpack_tuple(builder, index)
    return [
        [builder.add(i, i.type(step)) if place == axis else i for place, i in enumerate(index)] for step in range(steps)
    ]


@intrinsic(prefer_literal=True)
def load_along(context, array, index, axis, steps):
    """Return a tuple of Lanes that start at array[index] and at the next `steps` − 1 positions along an axis.

    `axis` and `steps` must be constants.
    """

    def generate(context, builder, signature, args):
        kind = signature.args[0]
        values = [
            _read(builder, _address(context, builder, kind, args[0], indices), kind.dtype.bitwidth // 8)
            for indices in _along(builder, args[1], axis.literal_value, steps.literal_value)
        ]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(lanes, steps.literal_value)(array, index, axis, steps), generate


@intrinsic(prefer_literal=True)
def store_along(context, array, index, axis, values):
    """Write a tuple of Lanes to array[index] and to the next positions along an axis."""

    def generate(context, builder, signature, args):
        kind = signature.args[0]
        indices = _along(builder, args[1], axis.literal_value, values.count)
        for at, value in zip(indices, cgutils.unpack_tuple(builder, args[3]), strict=True):
            _write(builder, value, _address(context, builder, kind, args[0], at), kind.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, axis, values), generate


@inlined
def load(array, index):
    """Return the Lanes that start at array[index]."""
    return load_along(array, index, 0, 1)[0]


@inlined
def store(array, index, value):
    """Write Lanes to the elements that start at array[index]."""
    store_along(array, index, 0, (value,))
