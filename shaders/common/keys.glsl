// common/keys.glsl: keys of NS slots at once in shared memory, [element][slot], so that a lane is a
// slot.
//
// The includer declares what slots.glsl needs to load keys, `const uint NS` and key D first.

// A slot's elements are a bank apart.
shared float y[D * (NS + 1u)];

#define KEPT_D D
#define KEPT_LOADS_K
#define KEPT_SHARED(i) y[(i) % D * (NS + 1u) + (i) / D]
#include "slots.glsl"

// Keys of slots first … first + NS - 1 of the store into y, Hadamard undone; slots from `end` on
// repeat the last. Ends with a barrier.
void load_keys(uint first, uint end)
{
    for (uint i = gl_LocalInvocationID.x; i < NS * D / 8u; i += WG) {
        uint slot = i % NS, g = i / NS;
        vec4 lo, hi;
        kept_k8(min(first + slot, end - 1u), g, lo, hi);
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            y[(8u * g + k) * (NS + 1u) + slot] = lo[k];
            y[(8u * g + 4u + k) * (NS + 1u) + slot] = hi[k];
        }
    }
    barrier();
    if (KT != KEPT_FMT_F16) {
        kept_hadamard(NS * D, D);
    }
}
