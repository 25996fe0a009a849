"""A value of 16 numbers, `Lanes`, for functions that numba compiles: one register of AVX-512, or a few smaller ones.

Left to itself, LLVM turns loops over channels into such registers, but does not know that arrays do not overlap, and
checks at every turn. Here each operation is one on registers: `load`, +, -, *, `maximum`, `select_equal`, `store`.

numba keeps compiled code by the file of the function that it compiled: after a change here, remove __pycache__.
"""

import operator

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
BYTES, HALVES, WORDS = (ir.VectorType(ir.IntType(bits), LANES) for bits in (8, 16, 32))
FLOATS = ir.VectorType(ir.FloatType(), LANES)
# Without "nnan" and "ninf": what is not finite has to come out as such.
FLAGS = ("contract", "reassoc", "nsz", "arcp")


inlined = njit(error_model="numpy", inline="always")


class Lanes(types.Type):
    """LANES numbers in float32."""

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
    """Return a value, a number or Lanes, as Lanes."""
    if kind == lanes:
        return value
    number = context.cast(builder, value, kind, types.float32)
    one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, _words(0))


def _operation(build):
    """Return a function of Lanes and numbers for compiled code, made of build(builder, *values)."""

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
    """Return the larger of each two numbers; x where that is not a number."""
    return _operation(lambda builder, x, y: builder.select(builder.fcmp_ordered("<", x, y), y, x))(lanes(x, y))


@intrinsic
def select_equal(context, x, y, yes, no):
    """Return `yes` where x equals y, and `no` elsewhere."""
    return _operation(lambda builder, x, y, yes, no: builder.select(builder.fcmp_ordered("==", x, y), yes, no))(
        lanes(x, y, yes, no)
    )


def _address(context, builder, kind, array, indices):
    """Return where array[indices] lies."""
    return cgutils.get_item_pointer(context, builder, kind, context.make_array(kind)(context, builder, array), indices)


def _read(builder, address, size):
    """Return Lanes from numbers of a size in bytes: float32, the bits of bfloat16, or whole numbers."""
    vector = {1: BYTES, 2: HALVES, 4: FLOATS}[size]
    value = builder.load(builder.bitcast(address, vector.as_pointer()), align=size)
    if size == 1:
        return builder.uitofp(value, FLOATS)
    if size == 2:
        return builder.bitcast(builder.shl(builder.zext(value, WORDS), _words(16)), FLOATS)
    return value


def _write(builder, value, address, size):
    """Write Lanes as numbers of a size in bytes, rounded where that is less than 4."""
    if size == 1:
        value = builder.fptoui(value, BYTES)
    elif size == 2:
        bits = builder.add(builder.bitcast(value, WORDS), _words(0x8000))
        value = builder.trunc(builder.lshr(bits, _words(16)), HALVES)
    builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=size)


def _along(builder, index, axis, steps):
    """Return an index moved on along an axis by 0, 1, … steps."""
    index = cgutils.unpack_tuple(builder, index)
    return [
        [builder.add(i, i.type(step)) if place == axis else i for place, i in enumerate(index)] for step in range(steps)
    ]


@intrinsic(prefer_literal=True)
def load_along(context, array, index, axis, steps):
    """Return a tuple of Lanes: from array[index] on, and so on along an axis; axis and steps are constants."""

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
    """Write a tuple of Lanes to array[index] and on, the next one step along the axis, and so on."""

    def generate(context, builder, signature, args):
        kind = signature.args[0]
        indices = _along(builder, args[1], axis.literal_value, values.count)
        for at, value in zip(indices, cgutils.unpack_tuple(builder, args[3]), strict=True):
            _write(builder, value, _address(context, builder, kind, args[0], at), kind.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, axis, values), generate


@inlined
def load(array, index):
    """Return the Lanes from array[index] on."""
    return load_along(array, index, 0, 1)[0]


@inlined
def store(array, index, value):
    """Write Lanes to array[index] and on."""
    store_along(array, index, 0, (value,))
